"""The machine during a measurement: read bandwidth, CPU use of other programs, own memory.

Needs psutil (the extra ``bench``).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingPackageError

try:
    import psutil
except ModuleNotFoundError as error:
    raise MissingPackageError(
        "Measuring needs psutil: install the extra 'bench' "
        '(python -m pip install "edgeseq[cpu,bench]").'
    ) from error

IDLE = {"idle", "iowait"}
COUNTED_TWICE = {"guest", "guest_nice"}  # Linux counts them in user and nice too
SIZE_BYTES = 256 << 20  # larger than the caches of most processors
CHUNK_ITEMS = 1 << 18  # int64 items per chunk: enough to make Python's time negligible
PASSES = 40  # all together take most of a second


class OthersClock:
    """A clock of the CPU use of other programs, which starts on construction."""

    def __init__(self) -> None:
        self._busy_s, self._total_s = _machine_s()
        self._own_s = _own_s()

    def share(self) -> float | None:
        """Return the share, 0 to 1; None if no time has passed.

        Time that a host took from a virtual machine counts as use by others. This process and the
        children that it waited for do not.
        """
        busy_s, total_s = _machine_s()
        passed_s = total_s - self._total_s
        if passed_s <= 0:
            return None
        return max(0.0, busy_s - self._busy_s - (_own_s() - self._own_s)) / passed_s


def _machine_s() -> tuple[float, float]:
    """Return the busy seconds and all seconds of the processors since the machine started."""
    times = {n: s for n, s in psutil.cpu_times()._asdict().items() if n not in COUNTED_TWICE}
    return sum(s for n, s in times.items() if n not in IDLE), sum(times.values())


def _own_s() -> float:
    """Return the processor seconds of this process and of the children that it waited for."""
    return float(sum(psutil.Process().cpu_times()[:4]))  # user, system, and those of children


def resident_bytes(process: int) -> int | None:
    """Return the resident memory of a process by its id, mapped files included.

    None if the process has ended.
    """
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.NoSuchProcess:
        return None


def read_bandwidth(threads: int, *, size_bytes: int = SIZE_BYTES, passes: int = PASSES) -> float:
    """Return the bytes per second that ``threads`` threads read together, a median of ``passes``.

    A decode step of one token reads every weight once and computes little with it, so memory
    bandwidth limits its speed. Each thread reads its own part of an array of ``size_bytes``. The
    reader is vectorized: a sum of floats, which adds in order, would under-report.
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
