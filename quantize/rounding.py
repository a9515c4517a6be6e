"""Round float weights to integer codes and scales, with numpy.

A weight is (inputs, outputs). It is cut into groups along the inputs. Each group of each output has
one scale, and code times scale gives the rounded number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import BundleError

SHRINK = np.linspace(1.0, 0.72, 15)  # factors to try on the scale that just covers a group
DAMPING = 0.01  # share of the Hessian's mean diagonal that is added to its diagonal
COLUMNS_AT_ONCE = 128  # inputs whose errors change later inputs in one product
TINY = 1e-30  # the smallest scale, which groups of zeros get

Floats = NDArray[np.float32]


class Curvature:
    """The effect of errors in a weight on the outputs of its layer.

    ``hessian``: (inputs, inputs), the sum of x x^T over inputs x of a calibration text.
    """

    def __init__(self, hessian: NDArray[np.floating[Any]]) -> None:
        self.importance: Floats = np.diag(hessian).astype(np.float32)
        self._hessian = hessian

    @cached_property
    def factor(self) -> Floats:
        """The upper Cholesky factor of the inverse of the damped Hessian.

        All layers that read the input share it.
        """
        damped = self._hessian.astype(np.float64)
        diagonal = np.diag(damped).copy()
        mean = diagonal.mean()
        damping = DAMPING * mean if mean > 0 else 1.0
        damped[np.diag_indices_from(damped)] = np.maximum(diagonal, 0) + damping
        inverse = np.linalg.inv(damped)
        factor: Floats = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
        return factor


@dataclass(frozen=True)
class Codes:
    """A rounded weight: ``codes * repeat(scales)`` along the inputs."""

    codes: NDArray[np.int8]  # (inputs, outputs)
    scales: Floats  # (groups, outputs)
    group_size: int

    def weight(self) -> Floats:
        """Return the rounded weight as floats, (inputs, outputs)."""
        scales = np.repeat(self.scales, self.group_size, axis=0)[: len(self.codes)]
        return self.codes * scales


def round_weight(
    weight: Floats,
    *,
    bits: int,
    group_size: int,
    curvature: Curvature | None = None,
) -> Codes:
    """Round ``weight``, (inputs, outputs), to ``bits`` bits, symmetrically around zero.

    With a ``curvature``, the inputs that are not rounded yet compensate for each rounding error
    (GPTQ, arXiv 2210.17323). Raises ``BundleError`` for a weight that is not finite.
    """
    if not np.isfinite(weight).all():
        raise BundleError("A weight of the bundle is NaN or infinite: export the checkpoint again.")
    if curvature is not None:
        return _compensated(weight, bits, group_size, curvature)
    inputs, outputs = weight.shape
    starts = range(0, inputs, group_size)
    scales = np.empty((len(starts), outputs), np.float32)
    codes = np.empty((inputs, outputs), np.int8)
    for i, start in enumerate(starts):
        group = weight[start : start + group_size]
        scales[i] = _scales(group, bits, None)
        codes[start : start + group_size] = _encode(group, scales[i], bits)
    return Codes(codes, scales, group_size)


def _limits(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def _encode(values: Floats, scales: Floats, bits: int) -> NDArray[np.int8]:
    low, high = _limits(bits)
    codes: NDArray[np.int8] = np.clip(np.rint(values / scales), low, high).astype(np.int8)
    return codes


def _scales(group: Floats, bits: int, importance: Floats | None) -> Floats:
    """Return the scale of each output with the least squared error, (outputs,).

    ``importance``: (inputs,), the weight of each input's error; None: all are equal. There is one
    more negative code than positive codes, so the largest value may take the lowest code. The scale
    may then be negative.
    """
    low, high = _limits(bits)
    largest = np.take_along_axis(group, np.abs(group).argmax(axis=0)[None], axis=0)[0]
    weights = np.ones(len(group), np.float32) if importance is None else importance
    best = np.full(group.shape[1], np.inf, np.float32)
    scales = np.full(group.shape[1], TINY, np.float32)
    for full in (np.abs(largest) / high, largest / low):
        for shrink in SHRINK if bits <= 4 else SHRINK[:1]:
            tried = full * np.float32(shrink)
            tried[np.abs(tried) < TINY] = TINY
            error = weights @ (_encode(group, tried, bits) * tried - group) ** 2
            better = error < best
            best[better], scales[better] = error[better], tried[better]
    return scales


def _compensated(weight: Floats, bits: int, group_size: int, curvature: Curvature) -> Codes:
    inputs, outputs = weight.shape
    rest = weight.astype(np.float32, copy=True)
    factor, importance = curvature.factor, curvature.importance
    codes = np.empty((inputs, outputs), np.int8)
    scales = np.empty((-(-inputs // group_size), outputs), np.float32)
    step = max(COLUMNS_AT_ONCE, group_size) if group_size < inputs else COLUMNS_AT_ONCE
    for start in range(0, inputs, step):
        end = min(start + step, inputs)
        errors = np.empty((end - start, outputs), np.float32)
        for i in range(start, end):
            if i % group_size == 0:
                group = slice(i, i + group_size)
                scales[i // group_size] = _scales(rest[group], bits, importance[group])
            scale = scales[i // group_size]
            codes[i] = _encode(rest[i], scale, bits)
            errors[i - start] = (rest[i] - codes[i] * scale) / factor[i, i]
            rest[i + 1 : end] -= np.outer(factor[i, i + 1 : end], errors[i - start])
        rest[end:] -= factor[start:end, end:].T @ errors
    return Codes(codes, scales, group_size)
