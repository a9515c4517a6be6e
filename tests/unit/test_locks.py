"""Turns and places: the order in which threads came, whatever ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgeseq.runtime import EdgeseqError
from edgeseq.runtime.concurrency.locks import FairLock, Slots


def never() -> bool:
    return False


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_turns_are_taken_in_the_order_of_arrival() -> None:
    turns, order = FairLock(), []

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        threads = []
        for number in range(20):
            threads.append(start(lambda number=number: take(number)))  # type: ignore[misc]
            wait_until(lambda number=number: len(turns._waiting) == number + 1)  # type: ignore[misc]
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(20))
    with turns:
        pass


def test_one_who_comes_back_stands_behind_those_who_wait() -> None:
    """With Python's own lock, whoever is running takes it again at once."""
    turns, taken = FairLock(), []

    def other() -> None:
        with turns:
            taken.append("other")

    with turns:
        thread = start(other)
        wait_until(lambda: len(turns._waiting) == 1)
    with turns:
        taken.append("first again")
    thread.join()
    assert taken == ["other", "first again"]


def test_an_error_in_a_turn_passes_it_on() -> None:
    turns = FairLock()
    with pytest.raises(ValueError), turns:
        raise ValueError
    with turns:
        pass


def test_places_are_given_in_the_order_of_arrival() -> None:
    places, order = Slots(1), []

    def take(number: int) -> None:
        with places.one(never):
            order.append(number)

    threads = []
    with places.one(never):
        for number in range(6):
            threads.append(start(lambda number=number: take(number)))  # type: ignore[misc]
            wait_until(lambda number=number: len(places._queue) == number + 1)  # type: ignore[misc]
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(6))
    assert places.held == 0


def test_as_many_as_there_are_places() -> None:
    places, inside = Slots(3), []
    may_run = threading.Event()

    def take() -> None:
        with places.one():
            inside.append(1)
            may_run.wait()

    threads = [start(take) for _ in range(8)]
    wait_until(lambda: len(inside) == 3 and len(places._queue) == 5)
    may_run.set()
    for thread in threads:
        thread.join()
    assert len(inside) == 8


def test_what_waits_for_all_to_end() -> None:
    places, ended = Slots(1), []
    with places.one():
        places.when_empty(lambda: ended.append(1))
        assert ended == []
    assert ended == [1]
    places.when_empty(lambda: ended.append(2))
    assert ended == [1, 2]


def test_one_that_is_cancelled_waits_no_longer() -> None:
    places, cancelled = Slots(1), threading.Event()
    ran = []

    def take() -> None:
        with places.one(cancelled.is_set):
            ran.append(places.held)

    with places.one(never):
        thread = start(take)
        wait_until(lambda: len(places._queue) == 1)
        assert ran == []
        cancelled.set()
        thread.join()
        assert len(ran) == 1
    assert places.held == 0


def test_a_stream_that_the_garbage_collector_ends() -> None:
    """It does so in any thread and anywhere: also where a place is just being taken."""
    places, ended = Slots(1), []

    def end_inside() -> None:
        held = places.one(never)
        held.__enter__()
        with places._lock:
            held.__exit__(None, None, None)
        with places.one(never):
            ended.append(1)

    start(end_inside).join(60)
    assert ended


@pytest.mark.parametrize("where", ["_held", "_queue"])
def test_a_stream_that_ends_while_another_asks_for_its_place(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of looking who has a place, and who waits."""
    monkeypatch.setattr("edgeseq.runtime.concurrency.locks.PATIENCE_S", 0.1)
    places, served = Slots(1), []
    held = places.one(never)
    held.__enter__()

    ends = iter([held])

    def end() -> None:
        for once in ends:
            once.__exit__(None, None, None)

    class Ending(type(getattr(places, where))):  # type: ignore[misc]
        def __len__(self) -> int:
            count: int = super().__len__()
            end()
            return count

        def __iter__(self) -> Iterator[Any]:
            for item in super().__iter__():
                end()
                yield item

    setattr(places, where, Ending(getattr(places, where)))

    def take() -> None:
        with places.one():
            served.append(1)

    start(take).join(60)
    assert served


def test_a_thread_that_would_wait_for_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseq.runtime.concurrency.locks.PATIENCE_S", 0.1)
    places = Slots(2)
    with places.one(never), places.one(never):
        with pytest.raises(EdgeseqError, match="2 streams are begun"), places.one(never):
            pass
        assert not places._queue
    with places.one(never):
        pass


def test_threads_that_would_wait_for_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseq.runtime.concurrency.locks.PATIENCE_S", 0.1)
    places, both = Slots(2), threading.Barrier(2)
    told, done = [], []

    def take() -> None:
        with places.one(never):
            both.wait()
            try:
                with places.one(never):
                    done.append(1)
            except EdgeseqError:
                told.append(1)

    threads = [start(take) for _ in range(2)]
    for thread in threads:
        thread.join(60)
    assert told
    assert len(told) + len(done) == 2


def test_streams_that_other_threads_go_on_with_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server may take each piece in another thread than the one before it."""
    monkeypatch.setattr("edgeseq.runtime.concurrency.locks.PATIENCE_S", 1)
    places = Slots(1)
    held = places.one()
    place = held.__enter__()  # begun in this thread, which waits below
    end = time.monotonic() + 2

    def advance() -> None:
        while time.monotonic() < end:
            place.step()
            time.sleep(0.01)
        held.__exit__(None, None, None)

    thread = start(advance)
    wait_until(lambda: place.thread == thread.ident)
    with places.one():
        assert time.monotonic() >= end
    thread.join()
