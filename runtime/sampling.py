"""Random choice of the next token from its logits. Knows nothing of how they were filtered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeseq.runtime.decoder import Logits, TokenIds
from edgeseq.runtime.errors import BundleError, OptionError


class DeadEndError(OptionError):
    """No token may come next."""

    def __init__(self) -> None:
        super().__init__(
            "No token may come next: the options, constraints and processors forbid all of them."
        )


def sample(logits: Logits, generators: Sequence[np.random.Generator]) -> TokenIds:
    """Draw one token a row from softmax(logits) and return them, (rows,) int64.

    `logits: (rows, vocab) float32`, where -inf is probability 0; one generator a row, from which
    exactly one uniform number is taken, so a row does not depend on its neighbours. Sums are
    float64. Source: inverse of the cumulative distribution.

    Raises `BundleError` if a row holds NaN or +inf, `OptionError` if nothing but -inf.
    """
    drawn = [_draw(row, generator) for row, generator in zip(logits, generators, strict=True)]
    return np.array(drawn, dtype=np.int64)


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


def _draw(row: Logits, generator: np.random.Generator) -> int:
    """Draw one token from `row: (vocab,) float32`."""
    kept = np.flatnonzero(row != -np.inf)
    logits = row[kept].astype(np.float64)
    peak = logits.max(initial=-np.inf)
    check_highest(float(peak))
    cumulative = np.exp(logits - peak).cumsum()
    # The first sum above the point is always that of a token with a probability above 0. The
    # product can round up to the total, which no sum is above.
    total = cumulative[-1]
    point = min(generator.random() * total, np.nextafter(total, 0.0))
    return int(kept[np.searchsorted(cumulative, point, side="right")])
