"""A fair lock, and slots that limit the generations at once; both serve in order of arrival."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import EdgeseqError

POLL_S = 0.1  # seconds between checks of ``cancelled``
PATIENCE_S = 5.0  # seconds without a step after which a generation may count as abandoned


class FairLock:
    """A lock that threads get in order of arrival; it is not reentrant.

    ``threading.Lock`` is not fair: one stream could starve the others. Threads that ask through
    ``other_kind`` take turns with those that ask directly, while both wait: however many threads
    of one kind there are, every second turn is for the other kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket] = deque()
        self._owner: int | None = None  # identifier of a thread
        self._is_other = False  # the kind of the owner, or of the last owner
        self.other_kind = _OtherKind(self)

    def __enter__(self) -> None:
        self.take(is_other=False)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._hand_over()

    def take(self, *, is_other: bool) -> None:
        """Wait for the lock; ``is_other``: the kind of the caller."""
        me = threading.get_ident()
        with self._lock:
            # A thread that asks again was interrupted (Ctrl-C) before it could release the lock.
            if self._owner is None or self._owner == me:
                self._owner, self._is_other = me, is_other
                return
            ticket = _Ticket(threading.Lock(), me, is_other)
            ticket.given.acquire()
            self._waiting.append(ticket)
        try:
            ticket.given.acquire()
        except BaseException:  # Ctrl-C
            with self._lock:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                else:
                    self._hand_over()
            raise

    def _hand_over(self) -> None:
        if self._waiting:
            others = (ticket for ticket in self._waiting if ticket.is_other != self._is_other)
            ticket = next(others, self._waiting[0])
            self._waiting.remove(ticket)
            self._owner, self._is_other = ticket.thread, ticket.is_other
            ticket.given.release()
        else:
            self._owner = None


class _Ticket(NamedTuple):
    given: threading.Lock  # released when the thread gets the fair lock
    thread: int
    is_other: bool


class _OtherKind:
    """Takes a fair lock as the other kind."""

    def __init__(self, lock: FairLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.take(is_other=True)

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()


class Slot:
    """A slot for one generation, or its position in the queue."""

    def __init__(self) -> None:
        self.is_held = False
        # Not an Event: a finalizer of the garbage collector may find its inner lock taken.
        self.given = threading.Lock()
        self.given.acquire()
        self.step()

    def step(self) -> None:
        """Note that the generation made a step, in this thread."""
        self.thread = threading.get_ident()
        self.stepped_s = time.monotonic()


class Slots:
    """Slots for ``count`` generations at once; further ones wait in order of arrival."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._queue: deque[Slot] = deque()
        self._held: set[Slot] = set()
        # The garbage collector may end a stream anywhere, even in a thread that has the lock. The
        # slot then goes here, and the thread that has the lock, or gets it next, hands it on.
        self._freed: deque[Slot] = deque()
        self._when_empty: Callable[[], None] | None = None
        self._process = os.getpid()

    @contextmanager
    def one(self, cancelled: Callable[[], bool] | None = None) -> Iterator[Slot]:
        """Hold a slot while the block runs; stop waiting once ``cancelled`` returns True.

        Raises ``EdgeseqError`` if no slot can become free: every generation that holds one made its
        last step long ago, in a thread that now waits for a slot itself.
        """
        slot = self._take(cancelled)
        try:
            yield slot
        finally:
            # In a forked child the lock may be taken by a thread that exists only in the parent.
            if slot.is_held and os.getpid() == self._process:
                self._freed.append(slot)
                self._hand_on_unless_locked()

    def when_empty(self, action: Callable[[], None]) -> None:
        """Do ``action`` once no generation holds a slot or waits for one."""
        with self._changing():
            self._when_empty = action
            self._act_if_empty()

    @property
    def held(self) -> int:
        """The number of slots that generations hold."""
        with self._changing():
            return len(self._held)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with self._lock:
                self._hand_on_freed()
                yield
        finally:
            self._hand_on_unless_locked()

    def _hand_on_unless_locked(self) -> None:
        """Hand on freed slots, unless another thread has the lock: it does so afterwards."""
        while self._freed and self._lock.acquire(blocking=False):
            try:
                self._hand_on_freed()
            finally:
                self._lock.release()

    def _hand_on_freed(self) -> None:
        while self._freed:
            self._free(self._freed.popleft())

    def _take(self, cancelled: Callable[[], bool] | None) -> Slot:
        slot = Slot()
        with self._changing():
            if len(self._held) < self._count:  # then the queue is empty
                self._hold(slot)
                return slot
            self._queue.append(slot)
        try:
            while not slot.given.acquire(timeout=PATIENCE_S if cancelled is None else POLL_S):
                if cancelled is not None and cancelled():
                    self._leave(slot)
                    return slot
                self._check_hope()
        except BaseException:
            self._leave(slot)
            raise
        return slot

    def _leave(self, slot: Slot) -> None:
        """Leave the queue; free the slot if it was given meanwhile."""
        with self._changing():
            if slot.is_held:
                self._free(slot)
            else:
                self._queue.remove(slot)
                self._act_if_empty()

    def _hold(self, slot: Slot) -> None:
        slot.is_held = True
        self._held.add(slot)
        slot.given.release()

    def _free(self, slot: Slot) -> None:
        slot.is_held = False
        self._held.remove(slot)
        if self._queue:
            self._hold(self._queue.popleft())
        self._act_if_empty()

    def _act_if_empty(self) -> None:
        if self._when_empty is not None and not self._held and not self._queue:
            self._when_empty()

    def _check_hope(self) -> None:
        """Raise ``EdgeseqError`` if only abandoned generations hold the slots."""
        with self._changing():
            waiting = {slot.thread for slot in self._queue}
            since = time.monotonic() - PATIENCE_S
            lost = all(s.thread in waiting and s.stepped_s < since for s in self._held)
            full = len(self._held) >= self._count
        if lost and full:
            raise EdgeseqError(
                f"All slots (max_concurrent is {self._count}) are held by unfinished streams of "
                "threads that wait for another slot: close one of these streams, or load the model "
                "with a larger max_concurrent."
            )
