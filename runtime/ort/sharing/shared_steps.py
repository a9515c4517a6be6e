"""Threads of one model that make decode steps together.

A thread hands in its tokens and waits. One of the waiting threads, the leader, makes the step for
all of them and wakes the others; there is no thread of its own. The leader begins as soon as every
generation that is expected has handed in its tokens, or when the others were late.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...bundle.manifest import Manifest
from ...decoder import Logits
from ...errors import DeviceError
from ..graph_session import check_process
from .shared_cache import Member, Request, SharedCache

POLL_S = 1.0  # seconds per wait, so that a missed wake-up delays at most this long
LEAST_PATIENCE_S = 0.002  # wait for the others; otherwise as long as the last step took
MOST_PATIENCE_S = 0.05
MISSED_STEPS = 4  # after which the rows of a generation leave the shared cache


class SharedSteps:
    """The decode steps of the generations of one model, and the thread that makes them."""

    # As in `Slots`, the garbage collector may end a stream anywhere, even in a thread that has the
    # lock: `close` only notes the member, and the thread that has the lock, or gets it next, acts.
    #
    # Every `with self._lock` is Python's own: an interrupt inside a context manager in Python could
    # leave the lock taken.

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session = session
        self._manifest = manifest
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._members: tuple[Member, ...] = ()
        self._waiting: list[Request] = []
        self._leader: Request | None = None
        self._ending: deque[Member] = deque()
        self._caches: dict[int, SharedCache] = {}  # by rows per source
        self._deadline_s = 0.0  # when the leader stops waiting for others
        self._patience_s = LEAST_PATIENCE_S

    def has_company(self, member: Member) -> bool:
        """Return whether other generations decode too; ``member`` now counts as one of them."""
        if os.getpid() != self._process:
            return False
        if not member.is_registered:
            with self._lock:
                self._register(member)
            self._end_unless_busy()
        self._note_arrival(member)
        if self._waiting or self._leader is not None:
            return True
        return any(other.is_expected and other.thread != member.thread for other in self._members)

    def note_end(self, member: Member) -> None:
        """Note that a member has the logits of a step that it made alone."""
        member.ready_s = time.monotonic()

    def decode(
        self, member: Member, tokens: Sequence[int], parents: Sequence[int] | None
    ) -> Logits:
        """Make a step together with others; ``parents``: the rows to select before."""
        request = Request(member, tokens, parents)
        self._serve(request)
        assert request.logits is not None  # it was served
        return request.logits

    def leave(self, member: Member) -> None:
        """Move the rows of ``member`` back to its private cache."""
        if member.place is not None:
            self._serve(Request(member, None))

    def pause(self, member: Member) -> None:
        """Move the rows of ``member`` back soon; others do not wait for it."""
        member.is_expected, member.ready_s = False, None
        self._end(member)

    def close(self, member: Member) -> None:
        """Free the rows of ``member``, which is not used again."""
        member.is_closed, member.is_expected = True, False
        self._end(member)

    # Waiting

    def _serve(self, request: Request) -> None:
        check_process(self._process)
        try:
            self._submit(request)
            self._end_unless_busy()
            while not request.is_done:
                if self._leader is request:
                    self._lead()
                    with self._lock:
                        self._hand_over()
                    self._end_unless_busy()
                else:
                    request.given.acquire(timeout=self._wait_s(request))
                    self._lead_if_late(request)
        except BaseException:  # Ctrl-C
            self._withdraw(request)
            raise
        request.member.ready_s = time.monotonic()
        if request.error is not None:
            raise request.error

    def _submit(self, request: Request) -> None:
        member = request.member
        self._note_arrival(member)
        with self._lock:
            self._register(member)
            if member.place is None and request.parents is not None:
                member.private.select_rows(request.parents)
                request.parents = None
            member.request = request
            self._waiting.append(request)
            if self._leader is None:
                if self._is_time(request):
                    self._leader = request
                elif len(self._waiting) == 1:
                    self._deadline_s = time.monotonic() + self._patience_s

    def _is_time(self, request: Request) -> bool:
        """Return whether ``request`` should lead now."""
        return request.tokens is None or self._all_are_here()

    def _all_are_here(self) -> bool:
        """Return whether nobody else is expected, or could come: one thread may read streams."""
        threads = {request.member.thread for request in self._waiting}
        return all(
            member.request is not None or member.thread in threads
            for member in self._members
            if member.is_expected
        )

    def _wait_s(self, request: Request) -> float:
        if self._leader is None and self._waiting[:1] == [request]:
            return max(self._deadline_s - time.monotonic(), 0.0)
        return POLL_S

    def _lead_if_late(self, request: Request) -> None:
        with self._lock:
            late = time.monotonic() >= self._deadline_s
            if self._leader is None and not request.is_done and (late or self._all_are_here()):
                self._leader = request

    def _withdraw(self, request: Request) -> None:
        """Take back a request whose thread was interrupted, and hand over what it led."""
        with self._lock:
            request.member.is_expected = False
            if request in self._waiting:
                self._waiting.remove(request)
            if request.member.request is request:
                request.member.request = None
            if self._leader is request:
                self._hand_over()
            elif self._leader is None:
                self._wake_first()
        self._end_unless_busy()

    def _hand_over(self) -> None:
        """Wake those who were served, and let another thread lead or wait for the others."""
        self._wake_served()
        self._leader = None
        for request in self._waiting:
            if self._is_time(request):
                self._leader = request
                _wake(request)
                return
        self._deadline_s = time.monotonic() + self._patience_s
        self._wake_first()

    def _wake_first(self) -> None:
        """Wake the first of those who wait, which looks how long it has to wait."""
        if self._waiting:
            _wake(self._waiting[0])

    def _wake_served(self) -> None:
        for request in list(self._waiting):
            place = request.member.place
            left = request.tokens is None and place is None
            answered = place is not None and place.answered is request
            if left or answered or request.error is not None:
                request.is_done = True
                request.member.request = None
                _wake(request)
                self._waiting.remove(request)

    def _note_arrival(self, member: Member) -> None:
        """Let others wait for a member from now on, unless its caller was slow."""
        since_s = 0.0 if member.ready_s is None else time.monotonic() - member.ready_s
        member.is_expected = since_s <= self._patience_s / 2
        member.thread = threading.get_ident()

    def _register(self, member: Member) -> None:
        if not member.is_registered:
            self._members = (*self._members, member)
            member.is_registered = True

    # Leading: the leader alone uses the shared caches

    def _lead(self) -> None:
        with self._lock:
            self._end_all()
            is_time = self._all_are_here() or time.monotonic() >= self._deadline_s
            waiting = list(self._waiting)
            absent = [member for member in self._members if member.request is None]
        for request in waiting:
            if request.tokens is None:
                self._try(self._move_back, [request])
        if not is_time:
            return
        groups: dict[int, list[Request]] = {}
        for request in waiting:
            if request.tokens is not None:
                groups.setdefault(_group(request.member), []).append(request)
        for member in absent:
            self._note_absence(member)
        held = [member.logits for member in absent if member.logits is not None]
        for group, requests in groups.items():
            self._try(partial(self._step, group, held), requests)
            with self._lock:
                self._wake_served()

    def _try(self, work: Callable[[list[Request]], None], requests: list[Request]) -> None:
        """Do ``work`` for the requests, or give them its error."""
        try:
            work(requests)
        except Exception as error:
            for request in requests:
                request.error = request.error or error

    def _step(self, group: int, held: list[Logits], requests: list[Request]) -> None:
        if group not in self._caches:
            self._caches[group] = SharedCache(self._session, self._manifest, group)
        cache = self._caches[group]
        try:
            cache.arrange(requests)
        except DeviceError as error:  # no memory for those who join: the others continue
            here = [request for request in requests if request.member.place is not None]
            for request in requests:
                if request not in here:
                    request.error = error
            requests = here
            if not requests:
                raise
            cache.arrange(requests)
        began_s = time.monotonic()
        cache.run(requests, held)
        took_s = time.monotonic() - began_s
        self._patience_s = min(max(took_s, LEAST_PATIENCE_S), MOST_PATIENCE_S)
        for request in requests:
            request.member.missed = 0

    def _note_absence(self, member: Member) -> None:
        """Do not wait for a member again; move it back if it misses many steps, or has no room."""
        place = member.place
        limit = self._manifest.dimensions.max_positions
        full = place is not None and limit is not None and max(place.lengths) >= limit
        if member.request is not None and not full:  # it came just now
            return
        member.is_expected = False
        if place is None:
            return
        member.missed += 1
        if member.missed > MISSED_STEPS or full:
            self._try_to_move_back(member)

    def _try_to_move_back(self, member: Member) -> None:
        try:
            self._copy_back(member)
        except DeviceError:  # no memory: the member's next call tries again, and raises
            return

    def _move_back(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._copy_back(request.member)

    def _copy_back(self, member: Member) -> None:
        if member.place is None:
            return
        content = member.place.home.copy_out(member)
        with self._lock:
            if member.request is None or member.request.tokens is None:
                member.private.restore(content)
                member.place = None

    # The end of members

    def _end(self, member: Member) -> None:
        # In a forked child the lock may be taken by a thread that exists only in the parent.
        if member.is_registered and os.getpid() == self._process:
            self._ending.append(member)
            self._end_unless_busy()

    def _end_unless_busy(self) -> None:
        """End members, unless another thread has the lock or leads: it does so afterwards."""
        is_ours = True
        while is_ours and self._ending and self._leader is None:
            is_ours = False
            try:
                is_ours = self._lock.acquire(blocking=False)
                if is_ours and self._leader is None:
                    self._end_all()
            finally:
                if is_ours:
                    self._lock.release()

    def _end_all(self) -> None:
        while self._ending:
            member = self._ending[0]
            if member.request is None:  # else it is used again
                self._end_one(member)
            self._ending.popleft()
        for group, cache in list(self._caches.items()):
            if not cache.members:
                del self._caches[group]

    def _end_one(self, member: Member) -> None:
        place = member.place
        if place is not None and not member.is_closed:
            try:
                member.private.restore(place.home.copy_out(member))
            except DeviceError:  # no memory: the member's next call tries again, and raises
                return
        member.place = None
        self._members = tuple(other for other in self._members if other is not member)
        member.is_registered = False


def _group(member: Member) -> int:
    """Return the rows per source; 1 without an encoder."""
    if member.place is not None:
        return member.place.home.group
    content = member.private.content()
    return 1 if content.sources is None else content.cache.rows // content.sources.rows


def _wake(request: Request) -> None:
    if request.given.locked():
        request.given.release()
