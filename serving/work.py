"""The work of requests: a queue for each model, cancellation, and events from threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

from ..runtime.results import StreamEvent
from .errors import ApiError
from .settings import Settings

Result = TypeVar("Result")
ROOM: Final = 256  # events that wait for a slow reader before its generation pauses
POLL_S: Final = 0.1  # seconds between checks of a paused generation
END: Final = object()


class Job:
    """One request's work, which ends when the client leaves or the limit of time is over."""

    def __init__(self, limit_s: float) -> None:
        self.began_s = time.monotonic()
        self._deadline_s = self.began_s + limit_s
        self._is_cancelled = False
        self._when_ended: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """End the work after the current decode step."""
        self._is_cancelled = True

    def when_ended(self, action: Callable[[], None]) -> None:
        """Call ``action`` at the end of the job."""
        self._when_ended.append(action)

    def end(self) -> None:
        """Cancel what is left of the work, and do what was asked for at the end."""
        self.cancel()
        while self._when_ended:
            self._when_ended.pop()()

    @property
    def is_late(self) -> bool:
        """Whether the limit of time is over."""
        return time.monotonic() > self._deadline_s

    @property
    def left_s(self) -> float:
        """The seconds until the limit of time, at least 0."""
        return max(self._deadline_s - time.monotonic(), 0.0)

    def is_over(self) -> bool:
        """Return whether the work must end; the control ``cancel`` of a call."""
        return self._is_cancelled or self.is_late


class Queue:
    """The requests of one model: some generate, and the others wait in order of arrival.

    Requests that generate have at most ``max_texts`` texts or beams together, because each has its
    own KV cache.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._jobs: set[Job] = set()
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self.running = 0
        self.texts = 0  # texts or beams of the running requests

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._jobs) - self.running

    def cancel(self) -> None:
        """End the work of all requests."""
        for job in self._jobs:
            job.cancel()

    def enter(self, job: Job) -> None:
        """Count ``job`` among those that run or wait until it ends.

        Raises ``ApiError`` (429) if the queue is full.
        """
        if job in self._jobs:
            return
        if len(self._jobs) >= self._settings.max_concurrent + self._settings.max_queue:
            raise ApiError(
                429,
                f"{len(self._jobs)} requests are running or waiting, which is the limit: try again "
                "later.",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        self._jobs.add(job)
        job.when_ended(lambda: self._jobs.remove(job))

    @asynccontextmanager
    async def slot(self, job: Job, texts: int) -> AsyncIterator[None]:
        """Wait for a slot with room for ``texts``, and hold it while the block runs.

        The job has entered the queue. Raises ``ApiError`` (503) if the limit of time is over first.
        """
        await self._wait(job, texts)
        try:
            yield
        finally:
            self._give_back(texts)

    async def _wait(self, job: Job, texts: int) -> None:
        given = asyncio.get_running_loop().create_future()
        self._waiting.append((given, texts))
        self._hand_on()
        try:
            async with asyncio.timeout(job.left_s):
                await given
        except BaseException as error:
            if given.cancelled():
                self._hand_on()  # the next one may need less room
            else:  # it was given at the same moment
                self._give_back(texts)
            if isinstance(error, TimeoutError):
                raise ApiError(
                    503,
                    "The request waited for longer than the limit of time: try again later.",
                    code="timeout",
                    headers={"Retry-After": "1"},
                ) from None
            raise

    def _give_back(self, texts: int) -> None:
        self.running -= 1
        self.texts -= texts
        self._hand_on()

    def _hand_on(self) -> None:
        """Give slots to the first requests that wait, as long as there is room."""
        while self._waiting:
            given, texts = self._waiting[0]
            if not given.done():
                room = self._settings.max_texts - self.texts
                if self.running == self._settings.max_concurrent or texts > room:
                    return
                self.running += 1
                self.texts += texts
                given.set_result(None)
            self._waiting.popleft()


class Threads:
    """The threads that check, generate and build answers, so that the event loop never waits."""

    def __init__(self, generations: int) -> None:
        self._checks = ThreadPoolExecutor(2, "edgeseq-check")
        self._generations = ThreadPoolExecutor(generations, "edgeseq-generate")

    def close(self) -> None:
        """End the threads, once their work has ended."""
        self._checks.shutdown(cancel_futures=True)
        self._generations.shutdown(cancel_futures=True)

    async def check(self, work: Callable[[], Result], limit_s: float) -> Result:
        """Return ``work()``, which reads JSON, encodes text or compiles a constraint.

        Raises ``ApiError`` after ``limit_s`` seconds: 503 if the threads were busy with the checks
        of other requests. Work that has begun continues in its thread; limits of size bound it.
        """
        submitted = self._checks.submit(work)
        future = asyncio.wrap_future(submitted)
        try:
            done, _ = await asyncio.wait({future}, timeout=limit_s)
            if done:
                return future.result()
            has_begun = submitted.running()
        finally:
            future.cancel()  # work that has not begun is left out
        if not has_begun:
            raise ApiError(
                503,
                "The server is busy with the checks of other requests: try again later.",
                code="busy",
                headers={"Retry-After": "1"},
            )
        raise ApiError(
            400,
            f"The checks of the request took longer than {limit_s:g} seconds: send a simpler "
            "constraint or a shorter prompt.",
            code="timeout",
        )

    async def build(self, work: Callable[[], Result]) -> Result:
        """Return ``work()``, which builds an answer that may be large."""
        return await asyncio.get_running_loop().run_in_executor(self._checks, work)

    async def run(self, job: Job, work: Callable[[], Result]) -> Result:
        """Return ``work()``, which ends soon after the job is over."""
        future = asyncio.get_running_loop().run_in_executor(self._generations, work)
        try:
            return await asyncio.shield(future)
        finally:  # also if this task is cancelled: the slot is free once the thread has ended
            if not future.done():
                job.cancel()
                await asyncio.wait({future})

    async def events(
        self,
        job: Job,
        events: Iterator[StreamEvent],
        slot: AbstractAsyncContextManager[None],
        silence_s: float,
    ) -> AsyncGenerator[StreamEvent | None]:
        """Yield the events, which a thread reads once it has the ``slot``.

        Yields None after each ``silence_s`` without an event. The thread pauses while ``ROOM``
        events are unread.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        room = threading.Semaphore(ROOM)

        def read() -> None:
            for event in events:
                # Once the job is over, the last events come soon, and need no room.
                while not room.acquire(timeout=POLL_S) and not job.is_over():
                    pass
                loop.call_soon_threadsafe(queue.put_nowait, event)

        async def work() -> None:
            try:
                async with slot:
                    await self.run(job, read)
            finally:
                queue.put_nowait(END)

        working = asyncio.create_task(work())
        try:
            while True:
                try:
                    async with asyncio.timeout(silence_s):
                        event = await queue.get()
                except TimeoutError:
                    yield None
                    continue
                if event is END:
                    await working  # raises the error of the generation
                    return
                room.release()
                yield event
        finally:
            job.cancel()
            working.cancel()
            await asyncio.wait({working})
