"""The sessions of a helper, by their names: prefix caches of texts that grow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...runtime.model import Model
from ...runtime.session import Session

MOST_SESSIONS = 64  # the memory of their KV caches together is bounded by the first one's


class Sessions:
    """The sessions of one model; they share the memory that a single one may use.

    Beyond ``MOST_SESSIONS``, the least recently used one is closed. Its next request reads its
    whole text again.
    """

    def __init__(self, model: Model) -> None:
        self._first = model.session()  # never used itself: the others are its forks
        self._sessions: dict[str, Session] = {}  # the least recently used first
        self._used: set[str] = set()
        self._closing: set[str] = set()  # in use, and closed afterwards
        self._lock = threading.Lock()

    @contextmanager
    def one(self, name: str) -> Iterator[Session]:
        """Yield a session for one request; requests with the same name come one after the other."""
        with self._lock:
            session = self._sessions.pop(name, None) or self._first.fork()
            self._sessions[name] = session
            self._used.add(name)
            for other in [other for other in self._sessions if other not in self._used]:
                if len(self._sessions) > MOST_SESSIONS:
                    self._sessions.pop(other).close()
        try:
            yield session
        finally:
            with self._lock:
                self._used.remove(name)
                if name in self._closing:
                    self._closing.remove(name)
                    self._sessions.pop(name).close()

    def close(self, name: str) -> bool:
        """Close a session, after its current request; return whether there was one."""
        with self._lock:
            if name not in self._sessions or name in self._closing:
                return False
            if name in self._used:
                self._closing.add(name)
            else:
                self._sessions.pop(name).close()
            return True
