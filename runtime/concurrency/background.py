"""Run work in a separate thread, for calls that release Python's GIL while they compute."""

from __future__ import annotations

import _thread
import atexit
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Generic, TypeVar
from weakref import ref

Result = TypeVar("Result")
POLL_S = 1.0  # seconds per wait, so that a missed wake-up delays at most this long


class _Token:
    """What a thread holds while it lives."""


class Background(Generic[Result]):
    """Run ``work`` in another thread while a ``with`` block runs; wait for its end afterwards.

    The thread holds ``work``, and with it everything that ``work`` refers to, until it ends. So an
    exception may unwind the block at any line, even between the thread's start and the wait for its
    end (Ctrl-C): nothing that the thread uses is freed under it. A process that ends meanwhile
    waits for the thread, because ONNX Runtime must not be torn down while it computes.
    """

    # No threading.Thread and no Event: an interrupt inside their waits may leave one of their locks
    # taken. The thread would then never start, or its end would never be noticed.

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._has_ended = False
        self._alive: set[ref[_Token]] = set()  # empty once the thread is gone
        self._end = threading.Lock()
        self._end.acquire()

    def __enter__(self) -> Background[Result]:
        _thread.start_new_thread(self._run, (self._token(),))
        return self

    def _token(self) -> _Token:
        """Return an object that only the thread holds.

        Without memory a thread may end before its first line. Its arguments are freed even then,
        and removing from a set needs no memory.
        """
        token = _Token()
        self._alive.add(ref(token, self._alive.discard))
        return token

    @property
    def _is_over(self) -> bool:
        return self._has_ended or not self._alive

    def __exit__(self, *_: object) -> None:
        self.join()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds``; return whether ``work`` has ended."""
        if not self._is_over:
            self._end.acquire(timeout=seconds)
        return self._is_over

    def result(self) -> Result:
        """Wait for the end; return the result of ``work``, or raise its error."""
        self.join()
        if self._error is not None:
            raise self._error
        if not self._has_ended:
            raise MemoryError("A thread ended as it started")
        return self._results[0]

    def join(self) -> None:
        """Wait for the end, however often Ctrl-C is pressed; then raise the last interrupt."""
        interrupt = None
        while not self._is_over:
            try:
                self._end.acquire(timeout=POLL_S)
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _run(self, token: _Token) -> None:
        _running.add(self)
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
        finally:
            _running.discard(self)
            self._has_ended = True
            self._end.release()


_running: set[Background[Any]] = set()


@atexit.register
def _wait_for_all() -> None:
    """Wait for work whose block was left by an interrupt before it could wait."""
    for background in list(_running):
        background.join()


def together(works: Mapping[str, Callable[[], Result]]) -> dict[str, Result]:
    """Run all ``works`` at the same time; return their results, or raise the first error."""
    with ExitStack() as running:
        begun = {name: running.enter_context(Background(work)) for name, work in works.items()}
        return {name: background.result() for name, background in begun.items()}
