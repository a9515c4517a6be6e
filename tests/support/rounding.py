"""Floating-point operations of the native kernels, computed by numpy with the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
f32 = np.float32


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """Return a * b + c, rounded once.

    The product is exact in float64. The sum is rounded to odd there, which keeps what decides the
    rounding to float32.
    """
    product, wide = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + wide
    back = total - product
    error = (product - (total - back)) + (wide - back)
    inexact = (error != 0) & (total.view(np.int64) & 1 == 0)
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(inexact, odd, total).astype(f32)
