"""The best continuations of a prompt's beams, out of beams × vocabulary candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..decoder import Logits
from ..logits.softmax import LogSums, exponentials
from ..native.logits import scan_rows

SET = 256  # tokens per set of ``Scan``
# Candidates with this score or a lower one are impossible. It is Transformers' score of beams that
# do not exist. Logits of -inf that `remove_invalid_values` made finite are lower.
IMPOSSIBLE = -1e9
DEEP = 40.0  # exponentials of logits this far below 0 lose precision
SLACK = 1e-3  # upper bound, with a wide margin, of the error of maxima found through exponentials


class Candidate(NamedTuple):
    """A continuation of a beam by one token."""

    score: float  # the sum of its log-probabilities, in float32 precision
    beam: int  # the beam that it continues
    token: int


class Scan(NamedTuple):
    """The result of one pass over all logits of some rows.

    The vocabulary is divided into sets of ``SET`` tokens. The tokens of a set are spread over the
    vocabulary, so that numpy finds the maxima of all sets in few passes. The last tokens, fewer
    than ``SET``, belong to no set. The error of maxima is below ``SLACK``.
    """

    maxima: Logits  # (rows, sets)
    rest: Sequence[float]  # for each row, the highest logit of the tokens that belong to no set
    sums: LogSums

    def rows(self, begin: int, end: int) -> Scan:
        """Return the scan of the rows from ``begin`` to before ``end``."""
        peaks, logs = self.sums
        sums = LogSums(peaks[begin:end], logs[begin:end])
        return Scan(self.maxima[begin:end], self.rest[begin:end], sums)


@np.errstate(all="ignore")
def scan(logits: Logits, scratch: Logits | None = None) -> Scan:
    """Return a scan of ``logits`` (rows, vocabulary).

    ``scratch``: memory for one row, (1, vocabulary). The compiled library does it, where there is
    one, if all highest logits are finite. Otherwise rows are scanned one by one, so that a row
    stays in the processor's cache. The maxima are then computed from the exponentials, which the
    sum needs anyway and which have the order of the logits.
    """
    found = scan_rows(logits, SET)
    if found is not None and np.isfinite(found.sums).all():
        sums = LogSums(found.peaks.tolist(), np.log(found.sums).tolist())
        return Scan(found.maxima, found.rest.tolist(), sums)
    scratch = np.empty_like(logits[:1]) if scratch is None else scratch
    sets = _sets(scratch)[0]
    left = scratch[0, sets.size :]
    maxima = np.empty((len(logits), sets.shape[1]), np.float32)
    rest, peaks, logs = [], [], []
    for row, highest in zip(logits, maxima, strict=True):
        peak, log = exponentials(row, scratch[0])
        np.maximum.reduce(sets, axis=0, out=highest)
        rest.append(float(np.log(np.maximum.reduce(left, initial=0.0))) + peak)
        peaks.append(peak)
        logs.append(log)
    np.log(maxima, out=maxima)
    maxima += np.array(peaks, np.float32)[:, None]
    return Scan(maxima, rest, LogSums(peaks, logs))


def _sets(logits: Logits) -> Logits:
    """Return the view (rows, SET, sets): token ``i * sets + j`` is the ``i``-th of set ``j``."""
    sets = logits.shape[1] // SET
    return logits[:, : sets * SET].reshape(len(logits), SET, sets)


def _maxima(logits: Logits) -> tuple[Logits, list[float]]:
    sets = _sets(logits)
    return np.maximum.reduce(sets, axis=1), _highest(logits[:, sets.shape[2] * SET :])


def _highest(values: Logits) -> list[float]:
    """Return the highest value of each row; -inf for an empty row."""
    highest: list[float] = np.maximum.reduce(values, axis=1, initial=-np.inf).tolist()
    return highest


@np.errstate(over="ignore")  # the lowest float32 plus a negative score
def best(
    logits: Logits, scores: Sequence[float], count: int, scanned: Scan | None = None
) -> list[Candidate]:
    """Return the ``count`` best continuations, the best first.

    Equal scores are ordered by beam, then by token id. ``logits: (beams, vocab) float32`` of the
    next token; ``scores``: the scores of the beams so far. The logits are log-probabilities, or
    ``scanned`` holds their normalizers. The best continuations are in the sets with the ``count``
    highest maxima, so only these sets are searched. This code runs with cold caches, so it makes
    few numpy calls and does the rest in plain Python.
    """
    peaks, logs = ([0.0] * len(scores),) * 2 if scanned is None else scanned.sums
    maxima, rest = _maxima(logits) if scanned is None else scanned[:2]
    shifts = np.array(
        [[score - peak - log] for score, peak, log in zip(scores, peaks, logs, strict=True)],
        np.float32,
    )
    highest = (maxima + shifts).ravel()
    border = _border(highest, count)
    if scanned is not None:
        if border < max(scores) - DEEP:
            maxima, rest = _maxima(logits)
            highest = (maxima + shifts).ravel()
            border = _border(highest, count)
        border -= SLACK
    stride = maxima.shape[1]
    found: list[tuple[int, int, float]] = []  # beam, token and logit
    at = (highest >= border).nonzero()[0].tolist()
    if at:
        beams = [place // stride for place in at]
        sets = [place % stride for place in at]
        inside = _sets(logits)[beams, :, sets]
        summed = (inside + shifts[beams]).ravel()
        for place in (summed >= border).nonzero()[0].tolist():
            which, number = divmod(place, SET)
            found.append(
                (beams[which], number * stride + sets[which], float(inside[which, number]))
            )
    for beam, top in enumerate(rest):
        if top + shifts[beam, 0] >= border:
            tokens = enumerate(logits[beam, stride * SET :].tolist(), stride * SET)
            found += [(beam, token, logit) for token, logit in tokens]
    ordered = sorted(
        (-(logit - peaks[beam] - logs[beam] + scores[beam]), beam, token)
        for beam, token, logit in found
    )
    kept = ordered[:count]
    return [Candidate(-low, beam, token) for low, beam, token in kept if -low > IMPOSSIBLE]


def _border(values: Logits, count: int) -> float:
    """Return a lower bound of the ``count`` highest ``values`` (n,), at least ``IMPOSSIBLE``."""
    if values.size <= count:
        return IMPOSSIBLE
    place = values.size - count
    return max(IMPOSSIBLE, float(np.partition(values, place)[place]))


def draw(
    log_probs: Logits, scores: Sequence[float], count: int, generator: np.random.Generator
) -> list[Candidate]:
    """Return ``count`` different continuations, sampled one after the other by their probability.

    ``log_probs: (beams, vocab) float32``; ``scores``: the scores of the beams so far. The highest
    sums of log-probability and Gumbel noise are ordered samples without replacement. Source:
    "Stochastic Beams and Where to Find Them", https://arxiv.org/abs/1903.06059.
    """
    places = np.flatnonzero(log_probs > IMPOSSIBLE)
    beams, tokens = np.divmod(places, log_probs.shape[1])
    sums = log_probs[beams, tokens] + np.array(scores, np.float64)[beams]
    noisy = sums + generator.gumbel(size=sums.size)
    if sums.size > count:
        drawn = np.argpartition(noisy, sums.size - count)[sums.size - count :]
    else:
        drawn = np.arange(sums.size)
    drawn = drawn[np.argsort(-noisy[drawn], kind="stable")]
    columns = sums[drawn].tolist(), beams[drawn].tolist(), tokens[drawn].tolist()
    return [Candidate(*row) for row in zip(*columns, strict=True)]
