"""Several processes that answer windows of rows, each with the model loaded.

The processes map the same weights file, so its memory is there once. A window is given to a process
that is idle, and windows come back in their order. A process that ends unasked is started again and
gets its window again; if that ends the process, too, the run ends with an error.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ..runtime.bench.worker import end_with, megabytes, peak_bytes
from ..runtime.errors import DeviceError, EdgeseqError, is_out_of_memory, reason
from ..runtime.ort.cpu import thread_count
from ..runtime.tasks.templates import Template
from .answering import Answer, Answering, Fields
from .files import Window

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection as Connection
else:
    from multiprocessing.connection import Connection

AHEAD = 4  # windows for each process that may wait for an earlier one to be written
STARTS = 2  # times that a process may end over one window
END_S = 10.0  # seconds that a process has to end
MEMORY = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a process needs to answer: the arguments of ``load``, and the task."""

    bundle: Path
    loading: Mapping[str, Any]  # keyword arguments of ``load``, without threads
    template: Template
    options: Mapping[str, Any]
    constants: Mapping[str, str]  # fields that are the same in all rows
    columns: Sequence[str]  # of the input


class Ready(NamedTuple):
    """How a process computes."""

    device: str
    device_reason: str
    kernels: str


class Usage(NamedTuple):
    """What a process has done, and its memory in megabytes; None if the system does not tell."""

    rows: int
    seconds: float  # in which it answered
    peak_mb: float | None
    own_mb: float | None  # memory that no other process shares, at the end

    def __str__(self) -> str:
        rate = self.rows / self.seconds if self.seconds else 0.0
        text = f"{self.rows:,} row{'s' * (self.rows != 1)}, {rate:,.1f} rows/s"
        text += f", {self.peak_mb:,.0f} MB at most" if self.peak_mb is not None else ""
        return text + (f", {self.own_mb:,.0f} MB of its own" if self.own_mb is not None else "")


def shares_of(threads: int | None, count: int) -> list[int]:
    """Return the threads of each of ``count`` processes; at least one each."""
    each, more = divmod(thread_count(threads), count)
    return [max(1, each + (i < more)) for i in range(count)]


# In a worker's process


def _work(pipe: Connection, setup: Setup, threads: int) -> None:
    """Answer what comes through ``pipe`` until None comes, or the other process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process gets Ctrl-C and ends this one
    end_with(os.getppid())
    with suppress(EOFError, ConnectionError):
        try:
            answering, ready = _prepared(setup, threads)
        except Exception as error:
            pipe.send(_told(error))
            return
        pipe.send(ready)
        rows, seconds = 0, 0.0
        while (inputs := pipe.recv()) is not None:
            started = time.perf_counter()
            try:
                answers: list[Answer] | EdgeseqError = answering(inputs)
            except Exception as error:
                answers = _told(error)
            seconds += time.perf_counter() - started
            rows += len(inputs)
            pipe.send(answers)
        pipe.send(Usage(rows, seconds, megabytes(peak_bytes()), megabytes(_own_bytes())))


def _told(error: Exception) -> EdgeseqError:
    """Return an error that is sent to the other process; raise any other one."""
    if isinstance(error, EdgeseqError):
        return error
    if is_out_of_memory(error):
        return DeviceError(
            f"A worker has not enough memory ({reason(error)}): use fewer --workers or shorter "
            "texts, then run the same command again to continue."
        )
    raise error


def _prepared(setup: Setup, threads: int) -> tuple[Answering, Ready]:
    from ..runtime.loading import load

    model = load(setup.bundle, threads=threads, **setup.loading)
    answering = Answering(model, setup.template, setup.options)
    answering.check(setup.constants, setup.columns)
    return answering, Ready(model.device, model.device_reason, model.kernels)


def _own_bytes() -> int | None:
    """Return the memory that this process shares with no other; None if it is unknown."""
    try:
        lines = MEMORY.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


# In the process that reads and writes


@dataclass
class _Worker:
    """A process, and the window it answers."""

    number: int  # from 1
    threads: int
    process: BaseProcess
    pipe: Connection
    is_ready: bool = False
    inputs: list[Fields] | None = None  # what it is to answer
    ends: int = 0  # how often it ended over these inputs
    waiting: _Waiting | None = None


@dataclass
class _Waiting:
    """A window whose turn to be written has not come, and its answers once they are there."""

    window: Window
    answers: list[Answer] = field(default_factory=list)
    is_done: bool = False


class Workers:
    """``count`` processes; a context manager that ends them.

    ``threads``: the number of threads of all processes together; None for all usable cores.
    ``say``: is told when a process is started again. Raises the errors of ``load`` and
    ``Answering`` at its entry.
    """

    def __init__(
        self, setup: Setup, count: int, threads: int | None, say: Callable[[str], None]
    ) -> None:
        self._setup, self._say = setup, say
        self._context = multiprocessing.get_context("spawn")
        self._threads = shares_of(threads, count)
        self._workers: list[_Worker] = []
        self.ready = Ready("", "", "")  # how the first process computes

    def __enter__(self) -> Workers:
        try:
            for i, threads in enumerate(self._threads, 1):
                self._workers.append(_Worker(i, threads, *self._started(i, threads)))
                while i == 1 and self._setup.loading.get("prepack") and not self.ready.device:
                    self._receive()  # it packs the weights, which the others then map
            while not all(worker.is_ready for worker in self._workers):
                self._receive()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, list[Answer]]]:
        """Yield each window with the answers to its inputs, in the order of the windows."""
        source = iter(windows)
        queue: deque[_Waiting] = deque()
        is_more = True
        while is_more or queue:
            idle = [one for one in self._workers if one.is_ready and one.inputs is None]
            while is_more and idle and len(queue) < AHEAD * len(self._workers):
                window = next(source, None)
                if window is None:
                    is_more = False
                    break
                inputs = window.inputs
                queue.append(_Waiting(window, is_done=not inputs))
                if inputs:
                    worker = idle.pop()
                    worker.inputs, worker.ends, worker.waiting = inputs, 0, queue[-1]
                    self._send(worker)
            if queue and queue[0].is_done:
                done = queue.popleft()
                yield done.window, done.answers
            elif queue:
                self._receive()

    def usage(self) -> list[Usage]:
        """End the processes, which are idle; return what each has done."""
        found = []
        for worker in self._workers:
            with suppress(EOFError, OSError):
                worker.pipe.send(None)
                message = worker.pipe.recv()
                while not isinstance(message, Usage):  # it was started again and has just loaded
                    message = worker.pipe.recv()
                found.append(message)
        return found

    def _started(self, number: int, threads: int) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._setup, threads), name=f"worker {number}", daemon=True
        )
        with _without_interrupts():
            process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return process, ours

    def _send(self, worker: _Worker) -> None:
        try:
            worker.pipe.send(worker.inputs)
        except OSError:
            self._restart(worker)

    def _receive(self) -> None:
        """Wait for a message of any worker and handle it."""
        by_pipe: dict[Any, _Worker] = {worker.pipe: worker for worker in self._workers}
        for pipe in connection.wait(list(by_pipe)):
            worker = by_pipe[pipe]
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                self._restart(worker)
                continue
            if isinstance(message, EdgeseqError):
                raise message
            if isinstance(message, Ready):
                worker.is_ready = True
                self.ready = self.ready if self.ready.device else message
                if worker.inputs is not None:
                    self._send(worker)
            elif worker.waiting is not None:
                worker.waiting.answers, worker.waiting.is_done = message, True
                worker.inputs, worker.waiting = None, None

    def _restart(self, worker: _Worker) -> None:
        """Start a process again that has ended; raise ``EdgeseqError`` if it did so twice."""
        worker.process.join(END_S)
        code = worker.process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        worker.ends += 1
        if worker.ends == STARTS:
            raise EdgeseqError(
                f"Worker {worker.number} ended {how}, and again when it was restarted: if memory "
                "is short, use fewer --workers; run the same command again to continue."
            )
        self._say(f"worker {worker.number} ended {how}: it is started again")
        worker.pipe.close()
        worker.is_ready = False
        worker.process, worker.pipe = self._started(worker.number, worker.threads)

    def _end(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(END_S)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._workers = []


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes in the block that Ctrl-C does not reach, not even while they start.

    A Ctrl-C in the meantime reaches this process after the block.
    """
    if sys.platform == "win32":
        yield
    else:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # it unblocks SIGINT when it starts its process
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
