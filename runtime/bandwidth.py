"""How fast this machine reads its memory: what a decode step's reading of weights is held against.

A step of one token reads every weight once and computes little with it, so that memory sets its
speed. The reader is vectorized: a sum of floats, which adds in order, would under-report.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
