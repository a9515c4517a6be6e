"""Sessions that are open in this process, so that a bundle loaded twice is in memory once.

Sessions hold no state between runs and may run in several threads. One is used again only for the
very same files, as long as somebody still has it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from edgeseq.runtime.onnx_runtime import Session

_sessions: WeakValueDictionary[Hashable, Session] = WeakValueDictionary()
_lock = threading.Lock()


def shared_session(
    files: Sequence[Path], settings: Hashable, open_new: Callable[[], Session]
) -> Session:
    """The session over ``files`` with ``settings`` that is open already, or else ``open_new()``.

    Of two loads that open the same at the same time each may get its own.
    """
    # A child after os.fork() has no threads for its parent's sessions.
    key = (os.getpid(), settings, tuple(map(_identity, files)))
    with _lock:
        found = _sessions.get(key)
    if found is None:
        found = open_new()
        with _lock:
            _sessions[key] = found
    return found


def _identity(path: Path) -> Hashable:
    """What changes when a file is replaced or written to; None: there is no such file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
