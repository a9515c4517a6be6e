"""Error rates of generated texts against the expected texts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import PromptError


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """The error rates of all texts together, as shares; an error rate can be above 1."""

    exact_match: float  # texts that equal the expected text / all texts
    word_error_rate: float  # edits of words / expected words; whitespace separates words
    character_error_rate: float  # edits of characters / expected characters


def error_rates(found: Sequence[str], expected: Sequence[str]) -> ErrorRates:
    """Return the error rates of the ``found`` texts against the ``expected`` texts, pair by pair.

    Raises ``PromptError`` if the expected texts have no words.
    """
    pairs = list(zip(found, expected, strict=True))
    words = [(text.split(), other.split()) for text, other in pairs]
    if not any(other for _, other in words):
        raise PromptError("The expected texts have no words: give texts to compare with.")
    return ErrorRates(
        exact_match=sum(text == other for text, other in pairs) / len(pairs),
        word_error_rate=_rate(words),
        character_error_rate=_rate(pairs),
    )


def edit_distance(found: Sequence[Hashable], expected: Sequence[Hashable]) -> int:
    """Return the number of insertions, deletions and substitutions from one sequence to the other.

    Source: Levenshtein distance by the Wagner-Fischer algorithm, one row at a time.
    """
    shorter, longer = sorted((found, expected), key=len)
    numbers: dict[Hashable, int] = {}
    rows, columns = (
        np.array([numbers.setdefault(item, len(numbers)) for item in items], np.int64)
        for items in (shorter, longer)
    )
    places = np.arange(len(longer) + 1)
    distances = places
    for item in rows:
        nearest = distances + 1
        nearest[1:] = np.minimum(nearest[1:], distances[:-1] + (columns != item))
        # A distance may also come from the left in the same row; each step adds 1.
        distances = np.minimum.accumulate(nearest - places) + places
    return int(distances[-1])


def _rate(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> float:
    edits = sum(edit_distance(items, others) for items, others in pairs)
    return edits / sum(len(others) for _, others in pairs)
