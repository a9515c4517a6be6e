"""Softmax of logits: log-probabilities in float32 and float64, and checks of the highest logit.

``logits: (rows, vocab) float32``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..decoder import Logits, TokenIds
from ..errors import BundleError, OptionError

SAFE_SUM = 1e-15  # sums between this and its inverse are far from the limits of float32


class LogSums(NamedTuple):
    """The normalizers of some rows: log-probabilities are ``logits - peaks - logs``.

    ``peaks`` holds each row's highest logit, or 0; ``logs`` holds the logarithm of the sum of
    ``exp(logits - peak)``. If a row's highest logit is not finite, its peak is that logit and its
    log is NaN.
    """

    peaks: Sequence[float]
    logs: Sequence[float]


@np.errstate(over="ignore")  # the lowest float32 minus the highest
def normalize(logits: Logits, sums: LogSums | None = None) -> None:
    """Turn each row into log-probabilities, in place; ``sums``: its normalizers, if known.

    A row whose highest logit is not finite stays as it is. Source: ``LogitNormalization``,
    ``torch.log_softmax``.
    """
    for row, peak, log_sum in zip(logits, *(sums or log_sums(logits)), strict=True):
        if math.isfinite(peak):
            # Two subtractions, because the rounding of the sum of both may be far less precise.
            np.subtract(row, peak, out=row)
            np.subtract(row, log_sum, out=row)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def log_sums(logits: Logits) -> LogSums:
    """Return the normalizers of each row."""
    scratch = np.empty(logits.shape[1], dtype=np.float32)
    pairs = [exponentials(row, scratch) for row in logits]
    return LogSums([peak for peak, _ in pairs], [log for _, log in pairs])


def exponentials(row: Logits, scratch: Logits) -> tuple[float, float]:
    """Return the peak and the log of ``row: (vocab,)``; write ``exp(row - peak)`` to ``scratch``.

    The exponentials of the logits themselves (peak 0) usually fit into float32, which saves two
    passes. Callers switch off numpy's overflow warnings, because doing so for each row would take
    microseconds.
    """
    np.exp(row, out=scratch)
    total = float(np.add.reduce(scratch))
    if SAFE_SUM < total < 1 / SAFE_SUM:
        return 0.0, math.log(total)
    peak = float(row.max())
    if not math.isfinite(peak):
        return peak, math.nan
    np.subtract(row, np.float32(peak), out=scratch)
    np.exp(scratch, out=scratch)
    return peak, math.log(np.add.reduce(scratch))


def log_softmax(row: Logits) -> NDArray[np.float64]:
    """Return the natural log-probability of every token, (vocab,), from ``row`` of that shape.

    Raises ``BundleError`` if the highest logit is not finite.
    """
    shifted = row.astype(np.float64)
    peak = shifted.max()
    check_finite(float(peak))
    shifted -= peak
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def log_probabilities(logits: Logits, targets: TokenIds) -> NDArray[np.float64]:
    """Return the natural log-probabilities of ``targets``, (k,), from ``logits: (k, vocab)``.

    Raises ``BundleError`` if a row's highest logit is not finite.
    """
    # Row by row, because one row in float64 fits into the processor's cache.
    rows = zip(logits, targets, strict=True)
    return np.array([log_softmax(row)[target] for row, target in rows], np.float64)


class DeadEndError(OptionError):
    """Raised for a step at which no token may come next."""

    def __init__(self) -> None:
        super().__init__(
            "No token may come next: the options, constraints and logits processors forbid every "
            "token, so relax one of them."
        )


def check_highest(highest: float) -> None:
    """Raise an error if a row's highest logit, after the processors, is not finite.

    Raises ``DeadEndError`` for -inf, ``BundleError`` for NaN and +inf.
    """
    if highest == -math.inf:
        raise DeadEndError
    check_finite(highest)


def check_finite(highest: float) -> None:
    """Raise ``BundleError`` if a row's highest logit is not finite."""
    if not math.isfinite(highest):
        raise BundleError(
            f"The model's highest logit is {highest}, but it must be finite: the weights are "
            "damaged (check them with `edgeseq info BUNDLE --verify`), or an option or a logits "
            "processor is at fault."
        )
