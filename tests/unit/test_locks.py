"""Fair locks and slots: served in the order of arrival, however a thread or a stream ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edgeseq.runtime import EdgeseqError
from edgeseq.runtime.concurrency import locks
from edgeseq.runtime.concurrency.locks import FairLock, Slots
from tests.support.processes import poll


def never() -> bool:
    return False


class Wait:
    """A ``cancelled`` for ``Slots.one``, which asks it only while the call waits for a slot."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()

    def __call__(self) -> bool:
        self.begun.set()
        return self.cancelled.is_set()


def start(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def wait_for_waiting(lock: FairLock, threads: int) -> None:
    """Wait until so many threads wait for the lock, which tells nobody."""
    poll(lambda: len(lock._waiting) == threads)


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.001)


def test_threads_get_the_lock_in_the_order_of_arrival() -> None:
    lock, order = FairLock(), []

    def take(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        threads = []
        for number in range(20):
            threads.append(start(take, number))
            wait_for_waiting(lock, number + 1)
        assert order == []
    join(*threads)
    assert order == list(range(20))
    with lock:
        pass


def test_a_thread_that_comes_back_stands_behind_those_that_wait() -> None:
    """With Python's own lock, whoever is running takes it again at once."""
    lock, taken = FairLock(), []

    def take() -> None:
        with lock:
            taken.append("other")

    with lock:
        thread = start(take)
        wait_for_waiting(lock, 1)
    with lock:
        taken.append("first again")
    join(thread)
    assert taken == ["other", "first again"]


def test_the_two_kinds_take_turns_while_both_wait() -> None:
    lock, order = FairLock(), []

    def take(name: str) -> None:
        with lock.other_kind if name.startswith("step") else lock:
            order.append(name)

    with lock:
        threads = []
        names = ["chunk 1", "chunk 2", "chunk 3", "step 1", "step 2", "chunk 4"]
        for number, name in enumerate(names):
            threads.append(start(take, name))
            wait_for_waiting(lock, number + 1)
    join(*threads)
    assert order == ["step 1", "chunk 1", "step 2", "chunk 2", "chunk 3", "chunk 4"]


def test_an_error_releases_the_lock() -> None:
    lock = FairLock()
    with pytest.raises(ValueError), lock:
        raise ValueError
    with lock:
        pass


def test_slots_are_given_in_the_order_of_arrival() -> None:
    slots, order = Slots(1), []

    def take(number: int, wait: Wait) -> None:
        with slots.one(wait):
            order.append(number)

    threads = []
    with slots.one(never):
        for number in range(6):
            wait = Wait()
            threads.append(start(take, number, wait))
            assert wait.begun.wait(60)
        assert order == []
    join(*threads)
    assert order == list(range(6))
    assert slots.held == 0


def test_as_many_calls_run_as_there_are_slots() -> None:
    slots, may_end = Slots(3), threading.Event()
    inside, waiting = threading.Semaphore(0), threading.Semaphore(0)

    def take() -> None:
        begun = threading.Event()

        def cancelled() -> bool:
            if not begun.is_set():
                begun.set()
                waiting.release()
            return False

        with slots.one(cancelled):
            inside.release()
            assert may_end.wait(60)

    threads = [start(take) for _ in range(8)]
    assert all(inside.acquire(timeout=60) for _ in range(3))
    assert all(waiting.acquire(timeout=60) for _ in range(5))
    assert slots.held == 3
    assert not inside.acquire(blocking=False)
    may_end.set()
    join(*threads)
    assert all(inside.acquire(blocking=False) for _ in range(5))
    assert slots.held == 0


def test_an_action_waits_until_all_slots_are_free() -> None:
    slots, ended = Slots(1), []
    with slots.one():
        slots.when_empty(lambda: ended.append(1))
        assert ended == []
    assert ended == [1]
    slots.when_empty(lambda: ended.append(2))
    assert ended == [1, 2]


def test_a_cancelled_call_no_longer_waits_for_a_slot() -> None:
    slots, wait = Slots(1), Wait()
    ran = []

    def take() -> None:
        with slots.one(wait):
            ran.append(slots.held)

    with slots.one(never):
        thread = start(take)
        assert wait.begun.wait(60)
        assert ran == []
        wait.cancelled.set()
        join(thread)
        assert len(ran) == 1
    assert slots.held == 0


def test_a_stream_that_the_garbage_collector_ends_frees_its_slot() -> None:
    """The collector does so in any thread and anywhere: also where a slot is just being taken."""
    slots, ended = Slots(1), []

    def end_inside() -> None:
        held = slots.one(never)
        held.__enter__()
        with slots._lock:
            held.__exit__(None, None, None)
        with slots.one(never):
            ended.append(1)

    join(start(end_inside))
    assert ended


@pytest.mark.parametrize("where", ["_held", "_queue"])
def test_a_stream_that_ends_while_another_asks_for_its_slot(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends in the middle of looking who has a slot, and who waits."""
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)
    slots, served = Slots(1), []
    held = slots.one(never)
    held.__enter__()

    ends = iter([held])

    def end() -> None:
        for once in ends:
            once.__exit__(None, None, None)

    class Ending(type(getattr(slots, where))):  # type: ignore[misc]
        def __len__(self) -> int:
            count: int = super().__len__()
            end()
            return count

        def __iter__(self) -> Iterator[Any]:
            for item in super().__iter__():
                end()
                yield item

    setattr(slots, where, Ending(getattr(slots, where)))

    def take() -> None:
        with slots.one():
            served.append(1)

    join(start(take))
    assert served


def test_a_thread_that_would_wait_for_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)
    slots, empty = Slots(2), []
    with slots.one(never), slots.one(never):
        with pytest.raises(EdgeseqError, match="are held by unfinished streams"), slots.one(never):
            pass
        slots.when_empty(lambda: empty.append(1))
        assert empty == []
    assert empty == [1]  # the call that was told does not wait any more
    with slots.one(never):
        pass


def test_threads_that_would_wait_for_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)
    slots, both = Slots(2), threading.Barrier(2)
    told, done = [], []

    def take() -> None:
        with slots.one(never):
            both.wait()
            try:
                with slots.one(never):
                    done.append(1)
            except EdgeseqError:
                told.append(1)

    join(*[start(take) for _ in range(2)])
    assert told
    assert len(told) + len(done) == 2


def test_a_call_waits_for_a_stream_that_another_thread_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server may take each piece in another thread than the one before it."""
    monkeypatch.setattr(locks, "PATIENCE_S", 0)
    slots, steps = Slots(1), 20
    held = slots.one()
    slot = held.__enter__()  # begun in this thread, which waits below

    def step_or_end() -> bool:
        nonlocal steps
        steps -= 1
        other.submit(slot.step).result(60)
        if steps == 0:
            other.submit(held.__exit__, None, None, None).result(60)
        return False

    with ThreadPoolExecutor(1) as other, slots.one(step_or_end):
        assert steps == 0
    assert slots.held == 0
