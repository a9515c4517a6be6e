"""No buffer of a native run is freed while it runs, wherever an interrupt unwinds the caller."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime.concurrency import background
from edgeseq.runtime.concurrency.background import Background, together
from edgeseq.runtime.decoder import CancelledError, never
from edgeseq.runtime.ort import binding
from edgeseq.runtime.ort.binding import LONG, Binding

RUN_S = 0.05  # of a native run that nobody ends
STRETCH = {binding.__file__, background.__file__}


@pytest.fixture(autouse=True)
def few_objects_to_collect() -> Iterator[None]:
    """Leave what other tests loaded out of the many collections here."""
    gc.freeze()
    yield
    gc.unfreeze()


class NativeBinding:
    """A binding that keeps addresses only, as ONNX Runtime's does."""

    def bind_input(self, *place: Any) -> None: ...
    def bind_output(self, *place: Any) -> None: ...


class SlowSession:
    """Runs until it is terminated, or for a while, and looks at its memory at the end."""

    def __init__(self) -> None:
        self.memory: list[weakref.ref[Any]] = []
        self.alive: list[bool] = []  # of each run that ended: whether its memory was there

    def io_binding(self) -> NativeBinding:
        return NativeBinding()

    def run_with_iobinding(self, native: NativeBinding, options: Any = None) -> None:
        patience = threading.Event()
        for _ in range(10):
            if options is not None and options.terminate:
                break
            patience.wait(RUN_S / 10)
        self.alive.append(all(ref() is not None for ref in self.memory))


def bound(session: SlowSession) -> Binding:
    """Return a binding that alone holds the memory of its run."""
    binding = Binding(session)
    source, target = np.zeros(8), np.zeros(8)
    session.memory = [weakref.ref(source), weakref.ref(target)]
    binding.input_array("x", source)
    binding.output_array("y", target)
    return binding


def raise_at(line: int, work: Callable[[], object]) -> bool:
    """Do ``work`` and interrupt it at the ``line``-th line of the stretch; whether it got there."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in STRETCH:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return seen >= line


def wait_for_the_threads() -> None:
    """As a process does when it ends."""
    background._wait_for_all()


@pytest.mark.parametrize("cancelled", [never, lambda: True], ids=["to the end", "cancelled"])
def test_memory_outlives_the_run_wherever_it_is_interrupted(
    cancelled: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "POLL_S", RUN_S / 5)
    line, runs = 0, 0
    got_there = True
    while got_there:
        line += 1
        session = SlowSession()

        def run(session: SlowSession = session) -> None:
            try:
                bound(session).run_until_cancelled(LONG, cancelled)
            except CancelledError:
                assert cancelled is not never

        got_there = raise_at(line, run)
        gc.collect()  # the caller is gone: the run's thread alone may hold the memory
        wait_for_the_threads()
        assert session.alive in ([], [True]), f"freed under the run, interrupted at line {line}"
        runs += len(session.alive)
    gc.collect()
    assert [ref() for ref in session.memory] == [None, None]  # of the last run, to its end
    assert line > 30 and runs > 15  # lines before the start of the thread and after it


def test_a_short_run_needs_no_thread() -> None:
    session = SlowSession()
    before = threading.active_count()
    bound(session).run_until_cancelled(LONG - 1, never)
    assert session.alive == [True]
    assert threading.active_count() == before


class Held:
    """An object that work uses."""


def test_what_work_uses_outlives_it_wherever_a_load_is_interrupted() -> None:
    line, got_there = 0, True
    while got_there:
        line += 1
        used: list[weakref.ref[Held]] = []
        alive: list[bool] = []

        def load(used: list[weakref.ref[Held]] = used, alive: list[bool] = alive) -> None:
            held = Held()
            used.append(weakref.ref(held))

            def work(held: Held = held) -> None:
                threading.Event().wait(RUN_S / 5)
                alive.append(used[0]() is not None)

            together({"encoder": work, "decoder": work})

        got_there = raise_at(line, load)
        gc.collect()
        wait_for_the_threads()
        assert all(alive)
    gc.collect()
    assert [ref() for ref in used] == [None]
    assert line > 40


@pytest.mark.parametrize("presses", [1, 3])
def test_leaving_the_block_waits_for_the_end(presses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often Ctrl-C is pressed, the last interrupt is raised when the work has ended."""
    ended = threading.Event()
    may_end = threading.Event()
    working = Background(lambda: may_end.wait(60) and ended.set())
    interrupts = 0

    class Lock:
        def __init__(self, lock: Any) -> None:
            self._lock = lock

        def acquire(self, timeout: float) -> bool:
            nonlocal interrupts
            if interrupts < presses:
                interrupts += 1
                raise KeyboardInterrupt
            may_end.set()
            return bool(self._lock.acquire(timeout=timeout))

        def release(self) -> None:
            self._lock.release()

    monkeypatch.setattr(working, "_end", Lock(working._end))
    with pytest.raises(KeyboardInterrupt), working:
        pass
    assert ended.is_set()
    assert interrupts == presses


def test_an_error_of_the_work_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no")

    with Background(fail) as working, pytest.raises(ValueError, match="no"):
        working.result()


def test_a_thread_that_ends_as_it_starts_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memory Python may end a thread before its first line."""

    def start(*_: Any) -> int:
        return 0

    monkeypatch.setattr("edgeseq.runtime.concurrency.background._thread.start_new_thread", start)
    with Background(lambda: 1) as running:
        assert running.wait(60)
    with pytest.raises(MemoryError):
        running.result()
