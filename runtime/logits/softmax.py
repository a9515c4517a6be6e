"""What is forbidden or forced at a place of the text, and logits made fit for what comes next.

`logits: (rows, vocab) float32` are changed in place; an id that is forbidden becomes -inf.
`tokens` holds, for each row, all its ids so far, the prompt's included, and `lengths`, for each
row, how many ids it has at the place that is meant. Values are those of the processors in
`transformers.generation.logits_process` (4.57.6). Parameters are taken as valid: the options
check them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..decoder import Logits, TokenIds
from ..errors import BundleError, OptionError

SAFE_SUM = 1e-15  # far from what float32 cannot hold, on either side


class LogSums(NamedTuple):
    """For every row two numbers that, taken off its logits, make them logs of probabilities.

    The first is near the highest logit, or 0; the second the log of the sum of the exponentials of
    what is left then. Of a row whose highest logit is not finite the first is that, the second NaN.
    """

    peaks: Sequence[float]
    logs: Sequence[float]


@np.errstate(over="ignore")  # the lowest float32 minus the highest
def normalize(logits: Logits, sums: LogSums | None = None) -> None:
    """Make each row the logarithms of its probabilities; `sums`: where they are known already.

    A row whose highest logit is not finite has none and stays as it is. Source:
    `LogitNormalization`, `torch.log_softmax`.
    """
    for row, peak, log_sum in zip(logits, *(sums or log_sums(logits)), strict=True):
        if math.isfinite(peak):
            # Two subtractions: the sum of both may be rounded to far fewer digits than the result.
            np.subtract(row, peak, out=row)
            np.subtract(row, log_sum, out=row)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def log_sums(logits: Logits) -> LogSums:
    """Those of logits (rows, vocabulary)."""
    scratch = np.empty(logits.shape[1], dtype=np.float32)
    pairs = [exponentials(row, scratch) for row in logits]
    return LogSums([peak for peak, _ in pairs], [log for _, log in pairs])


def exponentials(row: Logits, scratch: Logits) -> tuple[float, float]:
    """One row's two numbers of `LogSums`; `scratch` becomes the exponentials of what is left.

    As a rule float32 holds the exponentials of the logits themselves, which saves two passes. For
    callers that let numpy overflow: to switch warnings off for each row would cost microseconds.
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
    """Natural logs of the probabilities of all tokens, (vocabulary,), from ``row`` of that shape.

    Raises ``BundleError`` if the highest logit is not finite.
    """
    shifted = row.astype(np.float64)
    peak = shifted.max()
    check_finite(float(peak))
    shifted -= peak
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def log_probabilities(logits: Logits, targets: TokenIds) -> NDArray[np.float64]:
    """Natural logs of the probabilities of ``targets``, (k,), from ``logits``: (k, vocabulary).

    Raises ``BundleError`` if a row's highest logit is not finite.
    """
    # Row by row: one in float64 stays in the cache of the processor.
    rows = zip(logits, targets, strict=True)
    return np.array([log_softmax(row)[target] for row, target in rows], np.float64)


class DeadEndError(OptionError):
    """No token may come next."""

    def __init__(self) -> None:
        super().__init__(
            "No token may come next: the options, constraints and processors forbid all of them."
        )


def check_highest(highest: float) -> None:
    """Raise if a token cannot be chosen by a row's highest logit, after the processors."""
    if highest == -math.inf:
        raise DeadEndError
    check_finite(highest)


def check_finite(highest: float) -> None:
    """Raise ``BundleError`` if a row's highest logit is no number that can be compared."""
    if not math.isfinite(highest):
        raise BundleError(
            f"The model's highest logit must be finite, not {highest}: its weights are damaged, "
            "which `edgeseq info BUNDLE --verify` shows, or an option made it so."
        )
