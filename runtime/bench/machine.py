"""The machine during a measurement: read bandwidth, CPU use of other programs, own memory.

Needs psutil (the extra ``bench``).
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
PASS_BYTES = 64 << 20  # bytes that a pass reads at least: enough to make Python's time negligible
CHUNK_ITEMS = 1 << 19  # float32 items that numpy reads at once
PASSES = 24  # all together take most of a second
DISTURBED = 0.05  # share of the processors; more use by other programs spoils a measurement
BUSIEST = 3  # other programs that a report names
LEAST_CORES = 0.02  # use of the processors that is worth a name


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


class BusiestPrograms:
    """The programs besides this one that use the processors, from construction on."""

    def __init__(self) -> None:
        self._before = _programs()
        self._started = time.perf_counter()

    def cores(self) -> dict[str, float]:
        """Return the names of the busiest programs, with the number of cores that each used.

        Children of this process count as this program. Programs that have ended are not seen.
        """
        passed_s = time.perf_counter() - self._started
        used: dict[str, float] = {}
        for key, (name, cpu_s) in _programs().items():
            cores = (cpu_s - self._before.get(key, ("", 0.0))[1]) / passed_s
            used[name] = used.get(name, 0.0) + cores
        busiest = sorted(used, key=lambda name: -used[name])[:BUSIEST]
        return {name: round(used[name], 2) for name in busiest if used[name] >= LEAST_CORES}


def _programs() -> dict[tuple[int, float], tuple[str, float]]:
    """Return name and processor seconds of the other processes, by id and time of start."""
    own = psutil.Process()
    family = {own.pid, *(child.pid for child in own.children(recursive=True))}
    found = {}
    for process in psutil.process_iter(["name", "cpu_times", "create_time"]):
        known = process.info
        if process.pid not in family and known["cpu_times"] is not None:
            key = process.pid, known["create_time"]
            found[key] = known["name"], known["cpu_times"].user + known["cpu_times"].system
    return found


def memory_bytes() -> int:
    """Return the size of the machine's memory."""
    return int(psutil.virtual_memory().total)


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
    """Return the bytes per second that ``threads`` threads read together, the best of ``passes``.

    A decode step of one token reads every weight once and computes little with it, so the bandwidth
    limits its speed. Each thread reads its own part of an array of ``size_bytes``, again and again
    if the array is small. With the size of the weights, processor caches help the reader as much as
    the decode steps. The result is a limit, so the fastest of several readers counts.
    """
    parts = np.array_split(np.ones(max(size_bytes // 8, threads), np.int64), threads)
    repeats = max(1, PASS_BYTES // size_bytes)
    readers = [_maximum] if SEARCH is None else [_search, _maximum]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for number in range(max(passes, len(readers))):
            read = partial(_repeat, readers[number % len(readers)], repeats)
            started = time.perf_counter()
            list(pool.map(read, parts))
            passed_s = time.perf_counter() - started
            best = max(best, repeats * sum(part.nbytes for part in parts) / passed_s)
    return best


def _repeat(read: Callable[[NDArray[Any]], None], repeats: int, part: NDArray[Any]) -> None:
    for _ in range(repeats):
        read(part)


def _search(part: NDArray[Any]) -> None:
    """Read by the C library's search for a byte that the array does not have."""
    assert SEARCH is not None
    SEARCH(part.ctypes.data, 255, part.nbytes)


def _maximum(part: NDArray[Any]) -> None:
    """Read by numpy's vectorized maximum; a sum of floats adds in order and would be slower."""
    numbers = part.view(np.float32)
    for start in range(0, len(numbers), CHUNK_ITEMS):
        numbers[start : start + CHUNK_ITEMS].max()


def _c_search() -> Any:
    """Return ``memchr`` of the C library, which threads call at the same time; None without it."""
    try:
        search = ctypes.CDLL("msvcrt" if os.name == "nt" else None).memchr
    except (OSError, AttributeError):
        return None
    search.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    search.restype = ctypes.c_void_p
    return search


SEARCH = _c_search()
