"""A thread with an asyncio event loop, where all work with models happens.

The window starts jobs, which are coroutines, and hears of them by signals. Qt delivers a signal
that another thread emits through the event queue of the window, so the window never waits.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from PySide6.QtCore import QObject, Signal

from edgeseq.runtime import EdgeseqError

NICENESS = 5  # 0: as the window, 19: least
Work = Callable[["Job"], Awaitable[Any]]


class Job:
    """A piece of work. ``cancelled`` is passed to edgeseq as ``cancel``, and ends the work soon."""

    def __init__(self, worker: Worker) -> None:
        self.cancelled = threading.Event()
        self._worker = worker

    def cancel(self) -> None:
        """End the work; its signals still arrive, and receivers ignore those of old jobs."""
        self.cancelled.set()

    def send(self, piece: str) -> None:
        """Send a piece of text to the window."""
        self._worker.piece.emit(self, piece)

    def progress(self, done: int, total: int) -> None:
        """Tell the window how much of the work is done."""
        self._worker.progressed.emit(self, done, total)


class Worker(QObject):
    """The thread. Its signals carry the job that they are about."""

    piece = Signal(object, str)
    progressed = Signal(object, int, int)
    done = Signal(object, object)  # with what the work returned
    failed = Signal(object, str)  # with one sentence
    stopped = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._jobs: set[Job] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="writing-assistant")
        self._thread.start()

    def start(self, work: Work) -> Job:
        """Start a job. Jobs run at the same time; what must not wait has a lock of its own."""
        job = Job(self)
        if not self._is_stopping:
            self._jobs.add(job)
            self._loop.call_soon_threadsafe(self._begin, job, work)
        return job

    def stop(self, last: Work | None = None) -> None:
        """Cancel all jobs, do ``last``, and end the thread; ``stopped`` follows. Do not wait."""
        if self._is_stopping:
            return
        self._is_stopping = True
        for job in list(self._jobs):
            job.cancel()
        self._loop.call_soon_threadsafe(self._end, last)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        if sys.platform == "linux":
            # The window goes first on a busy machine. All threads that this one starts inherit it,
            # also the computing ones. Other systems have no priority of a thread here.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self.stopped.emit()

    def _begin(self, job: Job, work: Work) -> None:
        task = self._loop.create_task(self._do(job, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, job: Job, work: Work) -> None:
        try:
            self.done.emit(job, await work(job))
        except (EdgeseqError, OSError) as error:
            self.failed.emit(job, str(error))
        except Exception as error:  # a fault of the app: the window lives on and tells of it
            traceback.print_exc()
            self.failed.emit(job, f"Something unexpected happened: {error!r:.200}.")
        finally:
            self._jobs.discard(job)

    def _end(self, last: Work | None) -> None:
        async def finish() -> None:
            await asyncio.gather(*self._tasks)
            if last is not None:
                await self._do(Job(self), last)
            self._loop.stop()

        self._ending = self._loop.create_task(finish())
