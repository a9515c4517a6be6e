"""Work in a thread of its own, for calls that leave Python's lock to others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """``work`` begins at once, in another thread; leaving the ``with`` block waits for its end.

    A process that ends meanwhile waits too: ONNX Runtime may not be torn down while it works.
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgeseq-background")
        self._thread.start()

    def __enter__(self) -> Background[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self._join()

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; whether ``work`` has ended."""
        return self._ended.wait(seconds)

    def result(self) -> Result:
        """What ``work`` returned, once it has; what it raised is raised here."""
        self._join()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

    def _join(self) -> None:
        # Python 3.11 takes a thread for ended once Ctrl-C has interrupted a `join`. And what the
        # work uses may not go before it ends, however often one presses Ctrl-C.
        interrupt = None
        while not self._ended.is_set():
            try:
                self._ended.wait()
            except KeyboardInterrupt as error:
                interrupt = error
        self._thread.join()
        if interrupt is not None:
            raise interrupt


def together(works: Mapping[str, Callable[[], Result]]) -> dict[str, Result]:
    """The results of all ``works``, done at the same time; the first error among them is raised."""
    with ExitStack() as running:
        begun = {name: running.enter_context(Background(work)) for name, work in works.items()}
        return {name: background.result() for name, background in begun.items()}
