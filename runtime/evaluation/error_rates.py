"""How far generated texts are from those that were expected."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import PromptError


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """Shares over all texts; an error rate can be above 1."""

    exact_match: float  # texts that are as expected, to the character
    word_error_rate: float  # edits of words over the words expected; whitespace parts words
    character_error_rate: float  # edits of characters over the characters expected


def error_rates(found: Sequence[str], expected: Sequence[str]) -> ErrorRates:
    """Compare texts with the ``expected`` ones at the same places.

    Raises ``PromptError`` if there are no words among the expected ones.
    """
    pairs = list(zip(found, expected, strict=True))
    words = [(text.split(), other.split()) for text, other in pairs]
    if not any(other for _, other in words):
        raise PromptError("The expected texts hold no word: give some to compare with.")
    return ErrorRates(
        exact_match=sum(text == other for text, other in pairs) / len(pairs),
        word_error_rate=_rate(words),
        character_error_rate=_rate(pairs),
    )


def edit_distance(found: Sequence[Hashable], expected: Sequence[Hashable]) -> int:
    """Insertions, deletions and substitutions from ``found`` to ``expected``.

    Source: Levenshtein's distance, by Wagner and Fischer's table, one row at a time.
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
        # The best way along the row too: a step to the right costs 1.
        distances = np.minimum.accumulate(nearest - places) + places
    return int(distances[-1])


def _rate(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> float:
    edits = sum(edit_distance(items, others) for items, others in pairs)
    return edits / sum(len(others) for _, others in pairs)
