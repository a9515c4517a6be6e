"""Watch the process that an app runs in, so that a helper ends when its app does.

The system says when a process ends: a descriptor of the process on Linux (5.3 or later), kqueue on
macOS, a handle on Windows. So the watch uses no processor time. Elsewhere, it looks twice a second.
Only Linux is tested.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable

from ..runtime.errors import OptionError

Wait = Callable[[], object]  # returns once the process has ended
POLL_S = 0.5  # where the system does not say when a process ends
CLOSING_S = 1.0  # time that running work gets to end; then the process exits without it


def watch(pid: int, on_end: Callable[[], None]) -> None:
    """Call ``on_end`` in a thread of its own once the process ``pid`` has ended.

    Raises ``OptionError`` if there is no such process.
    """
    try:
        if pid < 1:
            raise ProcessLookupError
        wait = _waiting_for(pid)
    except (ProcessLookupError, OverflowError):
        raise OptionError(
            f"parent is {pid}, and there is no such process: give the id of the process whose end "
            "also ends this one."
        ) from None

    def watching() -> None:
        wait()
        on_end()

    threading.Thread(target=watching, name="edgeseq-parent", daemon=True).start()


if sys.platform == "win32":

    def _waiting_for(pid: int) -> Wait:
        """Return a function that waits for the end of a process: on Windows, for its handle."""
        import ctypes
        from ctypes import wintypes

        synchronize, access_denied, infinite = 0x00100000, 5, 0xFFFFFFFF
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.OpenProcess.restype = wintypes.HANDLE
        handle = kernel.OpenProcess(synchronize, False, pid)
        if not handle and ctypes.get_last_error() == access_denied:
            raise OptionError(f"parent is {pid}, a process that this one may not watch.")
        if not handle:
            raise ProcessLookupError
        kernel.WaitForSingleObject.argtypes = [wintypes.HANDLE, wintypes.DWORD]
        return lambda: kernel.WaitForSingleObject(handle, infinite)

elif sys.platform == "darwin":

    def _waiting_for(pid: int) -> Wait:
        """Return a function that waits for the end of a process: on macOS, by kqueue."""
        queue = select.kqueue()
        event = select.kevent(
            pid,
            select.KQ_FILTER_PROC,
            select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
            select.KQ_NOTE_EXIT,
        )
        queue.control([event], 0)
        return lambda: queue.control(None, 1)

else:

    def _waiting_for(pid: int) -> Wait:
        """Return a function that waits for the end of a process: on Linux, by its descriptor."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except (AttributeError, OSError):  # an old kernel, or a sandbox that forbids it
            return _looking_for(pid)
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        return ended.poll


def _looking_for(pid: int) -> Wait:
    """Return a function that asks again and again whether a process is there."""
    is_parent = pid == os.getppid()  # a parent that has ended may stay as a zombie

    def is_there() -> bool:
        if is_parent:
            return os.getppid() == pid
        try:
            os.kill(pid, 0)
        except PermissionError:  # it is there, and of another user
            return True
        except ProcessLookupError:
            return False
        return True

    if not is_there():
        raise ProcessLookupError
    pause = threading.Event()

    def wait() -> None:
        while is_there():
            pause.wait(POLL_S)

    return wait
