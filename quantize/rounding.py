"""Round float weights to integer codes and scales, with numpy.

A weight is (inputs, outputs). It is cut into groups along the inputs. Each group of each output has
one scale, and code times scale gives the rounded number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import BundleError

SHRINK = np.linspace(1.0, 0.72, 15)  # factors to try on the scale that just covers a group
DAMPING = 0.01  # share of the Hessian's mean diagonal that is added to its diagonal
OUTPUTS_AT_ONCE = 512  # outputs that are rounded at once, if inputs do not compensate
COLUMNS_AT_ONCE = 128  # inputs whose errors change later inputs in one product
FEW_COLUMNS = 16  # the same within these inputs
BLOCK, STRIP = 256, 512  # columns that a Cholesky factorization handles at once
TINY = 1e-30  # the smallest scale, which groups of zeros get

Floats = NDArray[np.float32]
Run = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]  # such as ``map``


class Curvature:
    """The effect of errors in a weight on the outputs of its layer.

    ``hessian``: (inputs, inputs), the sum of x x^T over inputs x of a calibration text.
    """

    def __init__(self, hessian: NDArray[np.floating[Any]]) -> None:
        self.importance: Floats = np.diag(hessian).astype(np.float32)
        self._hessian = hessian

    @cached_property
    def feedback(self) -> Floats:
        """The strictly upper ``U`` where the damped Hessian is ``(U + I) D (U + I)^T``.

        An error of input ``i`` is best compensated by adding ``U[i, k]`` times the error to each
        later input ``k``. This is GPTQ without the inverse of the Hessian (LDLQ, arXiv 2307.13304,
        theorem 6: both round alike). All layers that read the input share it.
        """
        damped = self._hessian[::-1, ::-1].astype(np.float64)  # reversed: Cholesky is lower
        diagonal = np.diag(damped).copy()
        mean = diagonal.mean()
        damping = DAMPING * mean if mean > 0 else 1.0
        damped[np.diag_indices_from(damped)] = np.maximum(diagonal, 0) + damping
        _factorize(damped)
        diagonal = np.diag(damped).copy()
        feedback: Floats = np.empty(damped.shape, np.float32)
        np.divide(damped[::-1, ::-1], diagonal[::-1], out=feedback, casting="same_kind")
        for i, row in enumerate(feedback):
            row[: i + 1] = 0
        return feedback


def _factorize(matrix: NDArray[np.float64]) -> None:
    """Replace the lower half of a positive definite matrix by its Cholesky factor.

    In blocks, so that nearly all of the work is products, which use all threads.
    """
    for start in range(0, len(matrix), BLOCK):
        end = min(start + BLOCK, len(matrix))
        corner = np.linalg.cholesky(matrix[start:end, start:end])
        matrix[start:end, start:end] = corner
        if end < len(matrix):
            below = matrix[end:, start:end] @ np.linalg.inv(corner).T
            matrix[end:, start:end] = below
            for first in range(0, len(below), STRIP):  # the upper half is never read
                strip = below[first : first + STRIP]
                matrix[end + first :, end + first : end + first + STRIP] -= below[first:] @ strip.T


@dataclass(frozen=True)
class Codes:
    """A rounded weight: ``codes * repeat(scales)`` along the inputs."""

    codes: NDArray[np.int8]  # (inputs, outputs)
    scales: Floats  # (groups, outputs)
    group_size: int

    def every(self, step: int) -> Codes:
        """Return every ``step``-th output."""
        return Codes(self.codes[:, ::step], self.scales[:, ::step], self.group_size)

    def weight(self) -> Floats:
        """Return the rounded weight as floats, (inputs, outputs)."""
        scales = np.repeat(self.scales, self.group_size, axis=0)[: len(self.codes)]
        return self.codes * scales


def round_weight(
    weight: Floats,
    *,
    bits: int,
    group_size: int,
    half_scales: bool = False,
    curvature: Curvature | None = None,
    run: Run = map,
) -> Codes:
    """Round ``weight``, (inputs, outputs), to ``bits`` bits, symmetrically around zero.

    With ``half_scales`` the scales are numbers that 16-bit floats can represent, unless the weight
    has larger numbers than 16-bit floats.

    With a ``curvature``, the inputs that are not rounded yet compensate for each rounding error
    (GPTQ, arXiv 2210.17323); else ``run`` maps a function over parts of the outputs. Raises
    ``BundleError`` for a weight that is not finite.
    """
    if not np.isfinite(weight).all():
        raise BundleError("A weight of the bundle is NaN or infinite: export the checkpoint again.")
    as_stored = as_halves if half_scales and _fits_halves(weight) else _unchanged
    if curvature is not None:
        return _compensated(weight, bits, group_size, curvature, as_stored)
    inputs, outputs = weight.shape
    codes = np.empty((inputs, outputs), np.int8)
    scales = np.empty((-(-inputs // group_size), outputs), np.float32)

    def round_part(begin: int) -> None:
        part = slice(begin, begin + OUTPUTS_AT_ONCE)
        values = np.ascontiguousarray(weight[:, part])
        for i, start in enumerate(range(0, inputs, group_size)):
            group = values[start : start + group_size]
            scales[i, part] = as_stored(_scales(group, bits, None))
            codes[start : start + group_size, part] = _encode(group, scales[i, part], bits)

    for _ in run(round_part, range(0, outputs, OUTPUTS_AT_ONCE)):
        pass
    return Codes(codes, scales, group_size)


def as_halves(scales: Floats) -> Floats:
    """Return the nearest numbers that 16-bit floats can represent, but no zeros."""
    halves = scales.astype(np.float16)
    halves[halves == 0] = np.finfo(np.float16).smallest_subnormal
    return halves.astype(np.float32)


def _fits_halves(weight: Floats) -> bool:
    return bool(np.abs(weight).max(initial=0.0) <= np.finfo(np.float16).max)


def _unchanged(scales: Floats) -> Floats:
    return scales


def _limits(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def _encode(values: Floats, scales: Floats, bits: int) -> NDArray[np.int8]:
    return _nearest(values, scales, bits, np.empty_like(values)).astype(np.int8)


def _nearest(values: Floats, scales: Floats, bits: int, out: Floats) -> Floats:
    """Write the codes of ``values`` to ``out``, as floats."""
    low, high = _limits(bits)
    np.divide(values, scales, out=out)
    np.rint(out, out=out)
    return np.clip(out, low, high, out=out)


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
    errors = np.empty_like(group)
    for full in (np.abs(largest) / high, largest / low):
        for shrink in SHRINK if bits <= 4 else SHRINK[:1]:
            tried = full * np.float32(shrink)
            tried[np.abs(tried) < TINY] = TINY
            _nearest(group, tried, bits, errors)
            errors *= tried
            errors -= group
            np.square(errors, out=errors)
            error = weights @ errors
            better = error < best
            best[better], scales[better] = error[better], tried[better]
    return scales


def _compensated(
    weight: Floats,
    bits: int,
    group_size: int,
    curvature: Curvature,
    as_stored: Callable[[Floats], Floats],
) -> Codes:
    """Round one input after the other; later inputs compensate for the errors of earlier ones.

    The compensation is a product with ``feedback``. It is added in three steps: to the next few
    inputs one by one, to the rest of the inputs at once, and to all later inputs.
    """
    inputs, outputs = weight.shape
    feedback, importance = curvature.feedback, curvature.importance
    rest = weight.astype(np.float32, copy=True)
    codes = np.empty((inputs, outputs), np.int8)
    scales = np.empty((-(-inputs // group_size), outputs), np.float32)
    # A group's scale needs the errors of all inputs before the group, so no step may end within it.
    step = max(COLUMNS_AT_ONCE, group_size) if group_size < inputs else COLUMNS_AT_ONCE
    few = FEW_COLUMNS if group_size >= inputs or group_size % FEW_COLUMNS == 0 else step
    errors = np.empty((min(step, inputs), outputs), np.float32)
    code, change = np.empty(outputs, np.float32), np.empty((few, outputs), np.float32)
    for start in range(0, inputs, step):
        end = min(start + step, inputs)
        for first in range(start, end, few):
            last = min(first + few, end)
            for i in range(first, last):
                if i % group_size == 0:
                    group = slice(i, min(i + group_size, inputs))
                    values = rest[group]
                    if i:
                        values = _settled(values, weight[group], feedback[group, group])
                    found = _scales(values, bits, importance[group])
                    scales[i // group_size] = as_stored(found)
                scale = scales[i // group_size]
                codes[i] = _nearest(rest[i], scale, bits, code)
                code *= scale
                np.subtract(weight[i], code, out=errors[i - start])
                if i + 1 < last:
                    ahead = change[: last - i - 1]
                    np.multiply(feedback[i, i + 1 : last, None], errors[i - start], out=ahead)
                    rest[i + 1 : last] += ahead
            done = errors[first - start : last - start]
            rest[last:end] += feedback[first:last, last:end].T @ done
        rest[end:] += feedback[start:end, end:].T @ errors[: end - start]
    return Codes(codes, scales, group_size)


def _settled(rest: Floats, weight: Floats, feedback: Floats) -> Floats:
    """Return a group's weights that best compensate for the errors of all earlier inputs.

    ``rest`` is compensated for these errors alone. Each input of the group would then take back a
    part of what the inputs before it in the group compensate.
    """
    system = np.eye(len(feedback)) + feedback.T.astype(np.float64)
    settled: Floats = weight + np.linalg.inv(system).astype(np.float32) @ (rest - weight)
    return settled
