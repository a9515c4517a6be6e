"""Confidence intervals by the paired bootstrap.

The texts are sampled with replacement, and each sample gets a score. A model and its reference are
scored on the same samples, so that the interval of their difference leaves out what the choice of
texts does to both. Source: Koehn, "Statistical Significance Tests for Machine Translation
Evaluation", 2004.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLES = 1000
SEED = 0
QUANTILES = (0.025, 0.975)
CHUNK = 100  # samples whose weights are in memory at once


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """A score, and its difference to the reference's score if there is a reference."""

    score: Estimate
    difference: Estimate | None = None


def estimate(
    statistics: NDArray[np.float64],
    score: Callable[[NDArray[np.float64]], float],
    reference: NDArray[np.float64] | None = None,
) -> Estimates:
    """Return the score of all texts with its interval.

    ``statistics``: (texts, k), added up over a sample of the texts; ``score``: the score from the
    sums, (k,). ``reference``: the statistics of the reference on the same texts.
    """
    scores = np.array([score(sums) for sums in _samples(statistics)])
    value = score(statistics.sum(axis=0))
    if reference is None:
        return Estimates(score=_interval(value, scores))
    others = np.array([score(sums) for sums in _samples(reference)])
    difference = value - score(reference.sum(axis=0))
    return Estimates(
        score=_interval(value, scores), difference=_interval(difference, scores - others)
    )


def _samples(statistics: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the sums of each sample; those of the same number of texts choose the same texts."""
    count = len(statistics)
    random = np.random.default_rng(SEED)
    for _ in range(SAMPLES // CHUNK):
        weights = random.multinomial(count, np.full(count, 1 / count), size=CHUNK)
        yield from weights @ statistics


def _interval(value: float, scores: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(scores, QUANTILES)
    return Estimate(value=value, low=float(low), high=float(high))
