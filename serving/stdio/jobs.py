"""The requests that take time: some are computed at once, in threads, and the others wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

from .messages import BUSY, INVALID_REQUEST, DuplicateIdError, Id, RpcError


class Job:
    """A request with its work.

    ``work``: a function that computes the answer and returns the function that sends it, which
    takes whether the job was cancelled. It raises nothing, and ends soon after ``cancelled`` is
    set. ``key``: jobs with the same key are computed one after the other; None: beside any other.
    """

    def __init__(
        self,
        request_id: Id,
        work: Callable[[Job], Callable[[bool], None]],
        key: Hashable | None = None,
    ) -> None:
        self.id = request_id
        self.work = work
        self.key = key
        self.cancelled = threading.Event()


class Jobs:
    """The jobs, in order of arrival; none begins before ``open``.

    ``at_once``: the limit of jobs that are computed at the same time. ``waiting``: the limit of
    others.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once = at_once
        self._most = at_once + waiting
        self._known: dict[Id, Job] = {}  # those without an answer
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()  # until their answers are sent
        self._changed = threading.Condition()
        self._is_open = False
        self._threads = ThreadPoolExecutor(at_once, "edgeseq-request")

    def open(self) -> None:
        """Begin with the jobs that wait."""
        with self._changed:
            self._is_open = True
            self._begin()

    def add(self, job: Job) -> None:
        """Compute a job as soon as there is room.

        Raises ``RpcError`` if its id is that of another job, or if too many jobs wait.
        """
        with self._changed:
            if job.id in self._known:
                raise DuplicateIdError(
                    INVALID_REQUEST,
                    f"The id {job.id!r:.60} is that of a request without an answer yet: use "
                    "another one.",
                )
            if len(self._known) >= self._most:
                raise RpcError(
                    BUSY,
                    f"{len(self._known)} requests are running or waiting, which is the limit: send "
                    "it again after an answer.",
                )
            self._known[job.id] = job
            self._waiting.append(job)
            self._begin()

    def cancel(self, request_id: Id) -> Job | None:
        """Cancel a job; return it if it has not begun, and is now forgotten.

        Raises ``KeyError`` if there is no such job.
        """
        with self._changed:
            job = self._known[request_id]
            job.cancelled.set()
            if job not in self._waiting:
                return None
            self._waiting.remove(job)
            del self._known[request_id]
            return job

    def cancel_all(self) -> None:
        """Cancel all jobs; a job that waits is answered when its turn comes."""
        with self._changed:
            for job in self._known.values():
                job.cancelled.set()

    def wait(self, limit_s: float) -> bool:
        """Wait until no job runs; return False after ``limit_s`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, limit_s)

    def _begin(self) -> None:
        """Begin with jobs while there is room."""
        keys = {job.key for job in self._running if job.key is not None}
        for job in list(self._waiting) if self._is_open else ():
            if len(self._running) == self._at_once:
                return
            if job.key in keys:
                continue
            if job.key is not None:
                keys.add(job.key)
            self._waiting.remove(job)
            self._running.add(job)
            self._threads.submit(self._run, job)

    def _run(self, job: Job) -> None:
        send = job.work(job)
        with self._changed:
            del self._known[job.id]  # before the answer: whoever reads it may use the id again
            is_cancelled = job.cancelled.is_set()  # what ``cancel`` has said is true
        send(is_cancelled)
        with self._changed:
            self._running.remove(job)
            self._begin()
            self._changed.notify_all()
