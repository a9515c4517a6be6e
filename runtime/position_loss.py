"""How well tokens are predicted by how many stand before them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Bin:
    """The tokens that ``first`` to ``last`` others stand before."""

    first: int
    last: int
    tokens: int
    cross_entropy: float  # nats a token


class PositionLoss:
    """Sums by position, in bins that double: 1, 2 to 3, 4 to 7, 8 to 15 and on."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[int, float]] = {}

    def add(self, first: int, log_probabilities: ArrayLike) -> None:
        """Count tokens that stand one behind the other; ``first`` others stand before the first.

        ``log_probabilities``: natural, (k,).
        """
        values = np.asarray(log_probabilities, np.float64)
        bins = np.frexp(np.arange(first, first + len(values)))[1] - 1  # of whole numbers: exact
        for number in np.unique(bins).tolist():
            tokens, nats = self._sums.get(number, (0, 0.0))
            found = values[bins == number]
            self._sums[number] = tokens + len(found), nats - float(found.sum())

    def bins(self) -> list[Bin]:
        """What was counted, by position."""
        return [
            Bin(2**number, 2 ** (number + 1) - 1, tokens, nats / tokens)
            for number, (tokens, nats) in sorted(self._sums.items())
        ]
