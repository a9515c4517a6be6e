"""Penalties and biases of logits, by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from edgeseq.runtime.logits.penalties import (
    SequenceBias,
    block_repeated_ngrams,
    block_source_ngrams,
    decay_length,
    penalize_presence,
    penalize_repetition,
    reward_sources,
)
from tests.support.logits import Logits, changed

INF = float("inf")
HIGHEST = float(np.finfo(np.float32).max)
Tokens = list[npt.NDArray[np.int64]]


def ids(*rows: list[int]) -> Tokens:
    return [np.array(row, dtype=np.int64) for row in rows]


def blocked(change: Callable[[Logits], None]) -> list[int]:
    (row,) = changed(change, [1] * 4)
    return [index for index, logit in enumerate(row) if logit == -INF]


def test_repetition_penalty() -> None:
    tokens = ids([0, 1, 1, 3], [])
    rows = changed(
        lambda logits: penalize_repetition(logits, tokens, 2.0), [4, -4, 4, -INF], [4, -4, 0, 1]
    )
    assert rows == [[2, -8, 4, -INF], [4, -4, 0, 1]]


def test_presence_and_frequency_penalty() -> None:
    """OpenAI's formula: mu[j] - c[j] * frequency - (c[j] > 0) * presence."""
    new = ids([0, 1, 1, 3], [])
    rows = changed(
        lambda logits: penalize_presence(logits, new, 0.5, 0.25), [4, -4, 4, -INF], [4, -4, 0, 1]
    )
    assert rows == [[3.25, -5, 4, -INF], [4, -4, 0, 1]]


def test_encoder_repetition_penalty() -> None:
    sources = ids([0, 1, 1, 3], [])
    rows = changed(
        lambda logits: reward_sources(logits, sources, 2.0), [4, -4, 4, -INF], [4, -4, 0, 1]
    )
    assert rows == [[8, -2, 4, -INF], [4, -4, 0, 1]]


@pytest.mark.parametrize("penalty", [0.5, 2.0])
def test_repetition_penalty_of_the_largest_numbers(penalty: float) -> None:
    def change(logits: Logits) -> None:
        penalize_repetition(logits, ids([0, 1]), penalty)

    expected = [HIGHEST / 2, -INF] if penalty == 2.0 else [INF, -HIGHEST / 2]
    assert changed(change, [HIGHEST, -HIGHEST]) == [expected]


@pytest.mark.parametrize(
    ("row", "size", "expected"),
    [
        ([0, 2, 0], 1, [0, 2]),
        ([0, 1, 0, 2, 0], 2, [1, 2]),
        ([0, 1, 2, 0, 1], 3, [2]),
        ([0, 1, 2, 1, 0], 3, []),
        ([0, 0, 0], 3, [0]),
        ([0, 0], 3, []),  # a 3-gram has not been there yet
        ([0, 1], 9, []),
        ([], 1, []),
        ([], 3, []),
    ],
)
def test_repeated_ngrams(row: list[int], size: int, expected: list[int]) -> None:
    assert blocked(lambda logits: block_repeated_ngrams(logits, ids(row), size)) == expected


def test_rows_have_their_own_ngrams() -> None:
    tokens = ids([0, 1, 0], [0, 1, 2, 3, 2])
    rows = changed(lambda logits: block_repeated_ngrams(logits, tokens, 2), [1] * 4, [1] * 4)
    assert rows == [[1, -INF, 1, 1], [1, 1, 1, -INF]]


@pytest.mark.parametrize(
    ("row", "source", "size", "expected"),
    [
        ([3], [0, 2, 0], 1, [0, 2]),
        ([], [0, 2, 0], 1, [0, 2]),
        ([3, 0], [0, 1, 0, 2, 0], 2, [1, 2]),
        ([0, 1], [0, 1, 2], 3, [2]),  # the text is shorter than the n-gram
        ([1], [0, 1, 2], 3, []),
        ([], [0, 1, 2], 3, []),
        ([0, 1, 2, 0, 1], [3, 3, 3], 3, []),  # the text's own may be repeated
        ([0, 1], [0, 1], 3, []),
        ([0, 1], [], 1, []),
    ],
)
def test_source_ngrams(row: list[int], source: list[int], size: int, expected: list[int]) -> None:
    def change(logits: Logits) -> None:
        block_source_ngrams(logits, ids(row), ids(source), size)

    assert blocked(change) == expected


def test_rows_have_their_own_sources() -> None:
    sources = ids([0, 1, 0], [0, 2])
    rows = changed(
        lambda logits: block_source_ngrams(logits, ids([0], [0]), sources, 2), [1] * 4, [1] * 4
    )
    assert rows == [[1, -INF, 1, 1], [1, 1, -INF, 1]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([], [1, 1.5, 1, 1]),
        ([0], [1, 1.5, 1, 1]),  # no place for two ids in a text of one
        ([3, 0], [1, 0.5, 4, 1]),  # what ends with the same id adds up
        ([0, 3, 0], [1, 0.5, 14, 1]),
        ([3, 3, 1], [1, 1.5, 1, 1]),
        ([2, 3, 3, 1], [-INF, 1.5, 1, 1]),
        ([0, 1], [1, 1.5, 1, 1]),
    ],
)
def test_sequence_bias(row: list[int], expected: list[float]) -> None:
    change = SequenceBias(
        [
            ((1,), 9.0),
            ((0, 1), 7.0),
            ((0, 2), 3.0),
            ((3, 0, 2), 10.0),
            ((3, 3, 1, 0), -INF),
            ((1,), 0.5),  # of equals the last one counts
            ((0, 1), -1.0),
        ]
    )
    assert changed(lambda logits: change(logits, ids(row)), [1] * 4) == [expected]


def test_sequence_bias_of_rows() -> None:
    change = SequenceBias([((0, 1), 2.0), ((1,), -INF), ((2,), 1.0)])
    rows = changed(
        lambda logits: change(logits, ids([2, 0], [2, 2], [])),
        [1, 1, 1],
        [-INF, 1, 1],
        [1, 1, -INF],
    )
    assert rows == [[1, -INF, 2], [-INF, -INF, 2], [1, -INF, -INF]]


def test_large_biases_cancel_before_they_reach_the_logit() -> None:
    change = SequenceBias([((1,), 1e20), ((0, 1), -1e20)])
    assert changed(lambda logits: change(logits, ids([2, 0])), [1, 0.25, 3]) == [[1, 0.25, 3]]


def test_bias_beyond_float32() -> None:
    change = SequenceBias([((1,), 1e300), ((0, 2), -1e300)])
    assert changed(lambda logits: change(logits, ids([2, 0])), [1, 1, 1]) == [[1, INF, -INF]]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (5, [3, -2, 0, -INF]),  # two more than the prompt
        (6, [4.5, -1, 0, -INF]),  # half of its size more
        (7, [6.75, 0.5, 0, -INF]),  # 1.25 of its size more
    ],
)
def test_decay_of_length(length: int, expected: list[float]) -> None:
    def change(logits: Logits) -> None:
        decay_length(logits, ids([0] * length), [3], 2, 1.5, [0, 1, 2, 3])

    assert changed(change, [3, -2, 0, -INF]) == [expected]


def test_decay_of_length_of_rows() -> None:
    def change(logits: Logits) -> None:
        decay_length(logits, ids([0] * 5, [0] * 5, []), [4, 5, 9], 0, 0.5, [2])

    rows = changed(change, [1, 1, 4], [1, 1, 4], [1, 1, 4])
    assert rows == [[1, 1, 2], [1, 1, 4], [1, 1, 4]]


@pytest.mark.parametrize(("factor", "expected"), [(9.0, HIGHEST), (0.5, -HIGHEST)])
def test_decay_of_length_does_not_overflow(factor: float, expected: float) -> None:
    logit = 2.0 if factor > 1 else -HIGHEST

    def change(logits: Logits) -> None:
        decay_length(logits, ids([0] * 5000), [0], 0, factor, [1])

    assert changed(change, [7, logit, 7]) == [[7, expected, 7]]


def test_no_rows() -> None:
    logits = np.zeros((0, 7), dtype=np.float32)
    penalize_repetition(logits, [], 2.0)
    reward_sources(logits, [], 2.0)
    block_repeated_ngrams(logits, [], 2)
    block_source_ngrams(logits, [], [], 2)
    SequenceBias([((1,), 1.0)])(logits, [])
    decay_length(logits, [], [], 1, 2.0, [1])
