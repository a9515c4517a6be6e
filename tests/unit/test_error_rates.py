"""Edit distances and error rates: by hand, and compared with the textbook's algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseq.runtime import PromptError
from edgeseq.runtime.evaluation.error_rates import ErrorRates, edit_distance, error_rates


@pytest.mark.parametrize(
    ("found", "expected", "distance"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("abcd", "bcda", 2),
        (["the", "king"], ["a", "king", "went"], 2),
        ((1, 2, 3), [1, 3], 1),
    ],
)
def test_edit_distance(found: Sequence[str], expected: Sequence[str], distance: int) -> None:
    assert edit_distance(found, expected) == distance


def table(found: str, expected: str) -> int:
    """Return the edit distance by the whole table of Wagner and Fischer."""
    previous = list(range(len(expected) + 1))
    for i, item in enumerate(found, 1):
        current = [i]
        for j, other in enumerate(expected, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (item != other)))
        previous = current
    return previous[-1]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_edit_distance_is_that_of_the_table(found: str, expected: str) -> None:
    assert edit_distance(found, expected) == table(found, expected)


def test_error_rates_by_hand() -> None:
    found = ["the king went", "a fox", ""]
    expected = ["the king went", "the fox", "oh no"]
    assert error_rates(found, expected) == ErrorRates(
        exact_match=1 / 3,
        word_error_rate=(0 + 1 + 2) / 7,
        character_error_rate=(0 + 3 + 5) / (13 + 7 + 5),
    )


def test_an_error_rate_can_be_above_one() -> None:
    assert error_rates(["a b c"], ["x"]).word_error_rate == 3


def test_targets_without_words_are_refused() -> None:
    for found, expected in (["a"], [" "]), ([], []):
        with pytest.raises(PromptError, match="have no words"):
            error_rates(found, expected)


def test_unequal_numbers_of_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        error_rates(["a"], ["a", "b"])
