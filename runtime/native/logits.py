"""A scan of logits for beam search, in the compiled library."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .library import processor_library

Floats = NDArray[np.float32]


class RowScans(NamedTuple):
    """What a scan finds; a row's sum is NaN if a logit is NaN, or if its highest is not finite."""

    maxima: Floats  # (rows, sets): token i * sets + j is the i-th of set j
    rest: Floats  # (rows,): the highest logit of the tokens that belong to no set
    peaks: Floats  # (rows,): the highest logit
    sums: NDArray[np.float64]  # (rows,): the sum of exp(logit - peak)


def scan_rows(logits: Floats, set_size: int) -> RowScans | None:
    """Return a scan of ``logits: (rows, vocab) float32``; None without the compiled library.

    The vocabulary is divided into sets of ``set_size`` tokens.
    """
    library = processor_library()
    if library is None or not logits.flags.c_contiguous:
        return None
    rows, vocabulary = logits.shape
    found = RowScans(
        np.empty((rows, vocabulary // set_size), np.float32),
        np.empty(rows, np.float32),
        np.empty(rows, np.float32),
        np.empty(rows, np.float64),
    )
    sizes = (ctypes.c_int64(size) for size in (rows, vocabulary, set_size))
    results = (ctypes.c_void_p(array.ctypes.data) for array in found)
    library.edgeseq_scan(ctypes.c_size_t(0), ctypes.c_void_p(logits.ctypes.data), *sizes, *results)
    return found
