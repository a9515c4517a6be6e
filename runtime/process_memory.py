"""How much memory this process holds. None where the system does not say."""

from __future__ import annotations

import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_bytes() -> int | None:
    """The most that was in memory at once since the program started, mapped files included.

    Not from ``getrusage`` on Linux: there a process starts with the peak of the one that started
    it.
    """
    if sys.platform == "linux":
        return _status_bytes("VmHWM")
    elif sys.platform == "darwin":  # noqa: RET505  # mypy takes these for branches of platforms
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    else:
        return None


def resident_bytes() -> int | None:
    """What is in memory now, mapped files included."""
    return _status_bytes("VmRSS") if sys.platform == "linux" else None


def _status_bytes(name: str) -> int | None:
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        field, _, value = line.partition(":")
        if field == name:
            return 1024 * int(value.split()[0])
    return None
