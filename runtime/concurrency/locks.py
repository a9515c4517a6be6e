"""Whose turn it is where threads share something: the order in which they came."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import EdgeseqError

POLL_S = 0.1  # how often one who waits asks whether to go on waiting
PATIENCE_S = 5.0  # without a step of those whose end is waited for


class FairLock:
    """A lock that is taken in the order of arrival; not by one thread twice.

    Python's own lets whoever is quick go first: of several streams one would run and the others
    stand still.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[threading.Lock, int]] = deque()
        self._owner: int | None = None  # a thread

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._lock:
            # A thread that asks again was interrupted (Ctrl-C) before it could pass its turn on.
            if self._owner is None or self._owner == me:
                self._owner = me
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._waiting.append((ticket, me))
        try:
            ticket.acquire()
        except BaseException:  # Ctrl-C
            with self._lock:
                if (ticket, me) in self._waiting:
                    self._waiting.remove((ticket, me))
                else:
                    self._pass_on()
            raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            ticket, self._owner = self._waiting.popleft()
            ticket.release()
        else:
            self._owner = None


class Slot:
    """Room for one generation, or a wait for it."""

    def __init__(self) -> None:
        self.is_held = False
        # No Event, which has a lock of its own that a collector's finalizer may find taken.
        self.given = threading.Lock()
        self.given.acquire()
        self.step()

    def step(self) -> None:
        """Say that the generation goes on, in this thread."""
        self.thread = threading.get_ident()
        self.stepped_s = time.monotonic()


class Slots:
    """Room for ``count`` generations at once; those beyond wait, and go on in order of arrival."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._queue: deque[Slot] = deque()
        self._held: set[Slot] = set()
        # The garbage collector may end a stream anywhere, in a thread that has the lock too: it
        # puts the place here, and whoever has the lock, or gets it, gives it on.
        self._freed: deque[Slot] = deque()
        self._when_empty: Callable[[], None] | None = None
        self._process = os.getpid()

    @contextmanager
    def one(self, cancelled: Callable[[], bool] | None = None) -> Iterator[Slot]:
        """A place while the block runs. Once ``cancelled``, none is waited for any more.

        Raises ``EdgeseqError`` where it is waited for in vain: the generations that have the
        places went on last in threads that wait themselves, and long ago.
        """
        place = self._take(cancelled)
        try:
            yield place
        finally:
            # After a fork others may hold the lock, who are not here.
            if place.is_held and os.getpid() == self._process:
                self._freed.append(place)
                self._settle()

    def when_empty(self, action: Callable[[], None]) -> None:
        """Do ``action`` once no generation has a place or waits for one."""
        with self._changing():
            self._when_empty = action
            self._act_if_empty()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with self._lock:
                self._give_on()
                yield
        finally:
            self._settle()

    def _settle(self) -> None:
        """Give on what was freed, unless another has the lock, who does it afterwards."""
        while self._freed and self._lock.acquire(blocking=False):
            try:
                self._give_on()
            finally:
                self._lock.release()

    def _give_on(self) -> None:
        while self._freed:
            self._give_back(self._freed.popleft())

    def _take(self, cancelled: Callable[[], bool] | None) -> Slot:
        place = Slot()
        with self._changing():
            if len(self._held) < self._count:  # then nobody waits
                self._hold(place)
                return place
            self._queue.append(place)
        try:
            while not place.given.acquire(timeout=PATIENCE_S if cancelled is None else POLL_S):
                if cancelled is not None and cancelled():
                    self._leave(place)
                    return place
                self._check_hope()
        except BaseException:
            self._leave(place)
            raise
        return place

    def _leave(self, place: Slot) -> None:
        """Wait no longer; what was given meanwhile is given back."""
        with self._changing():
            if place.is_held:
                self._give_back(place)
            else:
                self._queue.remove(place)
                self._act_if_empty()

    def _hold(self, place: Slot) -> None:
        place.is_held = True
        self._held.add(place)
        place.given.release()

    def _give_back(self, place: Slot) -> None:
        place.is_held = False
        self._held.remove(place)
        if self._queue:
            self._hold(self._queue.popleft())
        self._act_if_empty()

    def _act_if_empty(self) -> None:
        if self._when_empty is not None and not self._held and not self._queue:
            self._when_empty()

    def _check_hope(self) -> None:
        with self._changing():
            waiting = {place.thread for place in self._queue}
            since = time.monotonic() - PATIENCE_S
            lost = all(p.thread in waiting and p.stepped_s < since for p in self._held)
            full = len(self._held) >= self._count
        if lost and full:
            raise EdgeseqError(
                f"{self._count} streams are begun and not ended in threads that wait for another: "
                "close some, or load the model with a larger max_concurrent."
            )
