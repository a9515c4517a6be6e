"""The machine that something is measured on: what it is, and how much of it others use."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAT = Path("/proc/stat")
IDLE = (3, 4)  # places in /proc/stat's line of ticks: idle, and idle while waiting for a disk
GUESTS = 8  # from this place on the ticks are counted before too


class OthersClock:
    """From its making on, the share of the machine's processors that other programs used."""

    def __init__(self) -> None:
        self._ticks = _machine_ticks()
        self._own_s = _own_s()

    def share(self) -> float | None:
        """0 to 1, time that a host took from a virtual machine included; None outside Linux.

        This process and those children that it waited for are not others.
        """
        if self._ticks is None or (now := _machine_ticks()) is None:
            return None
        busy, total = (new - old for new, old in zip(now, self._ticks, strict=True))
        if total <= 0:
            return None
        own = (_own_s() - self._own_s) * os.sysconf("SC_CLK_TCK")
        return max(0.0, busy - own) / total


def _machine_ticks() -> tuple[int, int] | None:
    """The ticks of all processors since the machine started: busy ones, and all."""
    if sys.platform != "linux":
        return None
    name, *ticks = STAT.read_text(encoding="utf-8").splitlines()[0].split()
    if name != "cpu":
        return None
    counts = [int(tick) for tick in ticks[:GUESTS]]
    return sum(counts) - sum(counts[place] for place in IDLE), sum(counts)


def _own_s() -> float:
    """Processor seconds of this process and of the children that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


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


SIZE_BYTES = 256 << 20  # beyond what the caches of most machines hold
CHUNK_ITEMS = 1 << 18  # int64: long enough that Python's part between two chunks counts little
PASSES = 40  # most of a second altogether


def read_bandwidth(threads: int, *, size_bytes: int = SIZE_BYTES, passes: int = PASSES) -> float:
    """Bytes a second that ``threads`` threads read together: the median of ``passes``.

    Each thread reads its own part of an array of ``size_bytes``; numpy lets others run meanwhile.
    """
    parts = np.array_split(np.ones(size_bytes // 8, np.int64), threads)  # written, so in memory
    times_s = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes):
            started = time.perf_counter()
            list(pool.map(_read, parts))
            times_s.append(time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / median(times_s)


def _read(part: NDArray[Any]) -> None:
    for start in range(0, len(part), CHUNK_ITEMS):
        np.bitwise_or.reduce(part[start : start + CHUNK_ITEMS])
