from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from edgeseq.runtime.logits import (
    apply_temperature,
    block_repeated_ngrams,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)

INF = float("inf")
Logits = npt.NDArray[np.float32]
Tokens = list[npt.NDArray[np.int64]]


def changed(change: Callable[[Logits], None], *rows: Sequence[float]) -> list[list[float]]:
    logits = np.array(rows, dtype=np.float32)
    change(logits)
    result: list[list[float]] = logits.tolist()
    return result


def ids(*rows: list[int]) -> Tokens:
    return [np.array(row, dtype=np.int64) for row in rows]


def test_temperature() -> None:
    def halve(logits: Logits) -> None:
        apply_temperature(logits, 2.0)

    assert changed(halve, [1, -2, 0, -INF]) == [[0.5, -1, 0, -INF]]


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, [-INF, 4, -INF, -INF]),
        (2, [-INF, 4, 3, -INF]),
        (3, [1, 4, 3, 1]),  # a tie with the last one kept
        (4, [1, 4, 3, 1]),
        (9, [1, 4, 3, 1]),
    ],
)
def test_top_k(top_k: int, expected: list[float]) -> None:
    assert changed(lambda logits: keep_top_k(logits, top_k), [1, 4, 3, 1]) == [expected]


def test_top_k_of_a_row_with_fewer_left() -> None:
    few, many = [-INF, 4, -INF, -INF], [1, 2, 3, 4]
    kept = changed(lambda logits: keep_top_k(logits, 2), few, many)
    assert kept == [[-INF, 4, -INF, -INF], [-INF, -INF, 3, 4]]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.0, [1]),
        (0.4, [1]),
        (0.55, [1, 3]),  # of two equals the first one goes first
        (0.75, [1, 2, 3]),
        (0.95, [0, 1, 2, 3]),
    ],
)
def test_top_p(top_p: float, kept: list[int]) -> None:
    row = np.log([0.1, 0.5, 0.2, 0.2]).tolist()
    (result,) = changed(lambda logits: keep_top_p(logits, top_p), row)
    assert [index for index, logit in enumerate(result) if logit > -INF] == kept
    assert [result[index] for index in kept] == pytest.approx([row[index] for index in kept])


def test_top_p_of_one_keeps_all() -> None:
    assert changed(lambda logits: keep_top_p(logits, 1.0), [1, 2, 3, -INF]) == [[1, 2, 3, -INF]]


@pytest.mark.parametrize("row", [[-INF, -INF], [INF, 1.0]])
def test_top_p_of_a_row_without_probabilities(row: list[float]) -> None:
    assert changed(lambda logits: keep_top_p(logits, 0.5), row) == [row]


def test_top_p_of_a_row_with_nan() -> None:
    (row,) = changed(lambda logits: keep_top_p(logits, 0.5), [np.nan, 1.0])
    assert row == pytest.approx([np.nan, 1.0], nan_ok=True)


def test_repetition_penalty() -> None:
    tokens = ids([0, 1, 1, 3], [])
    rows = changed(
        lambda logits: penalize_repetition(logits, tokens, 2.0), [4, -4, 4, -INF], [4, -4, 0, 1]
    )
    assert rows == [[2, -8, 4, -INF], [4, -4, 0, 1]]


@pytest.mark.parametrize(
    ("row", "size", "blocked"),
    [
        ([0, 2, 0], 1, {0, 2}),
        ([0, 1, 0, 2, 0], 2, {1, 2}),
        ([0, 1, 2, 0, 1], 3, {2}),
        ([0, 1, 2, 1, 0], 3, set()),
        ([0, 0, 0], 3, {0}),
        ([0, 0], 3, set()),  # a 3-gram has not been there yet
        ([0, 1], 9, set()),
        ([], 1, set()),
    ],
)
def test_repeated_ngrams(row: list[int], size: int, blocked: set[int]) -> None:
    (result,) = changed(lambda logits: block_repeated_ngrams(logits, ids(row), size), [1] * 4)
    assert {index for index, logit in enumerate(result) if logit == -INF} == blocked


def test_rows_have_their_own_ngrams() -> None:
    tokens = ids([0, 1, 0], [0, 1, 2, 3, 2])
    rows = changed(lambda logits: block_repeated_ngrams(logits, tokens, 2), [1] * 4, [1] * 4)
    assert rows == [[1, -INF, 1, 1], [1, 1, 1, -INF]]


VOCAB = 503
FILTERS: list[
    tuple[Callable[[Logits, Any], None], Callable[[Any], LogitsProcessor], list[float]]
] = [
    (apply_temperature, TemperatureLogitsWarper, [0.1, 0.7, 1.0, 3.0]),
    (keep_top_k, TopKLogitsWarper, [1, 5, 50, VOCAB - 1, VOCAB, 10 * VOCAB]),
    (keep_top_p, TopPLogitsWarper, [0.0, 0.05, 0.3, 0.9, 0.95, 0.999, 1.0]),
]
REPETITIONS: list[
    tuple[Callable[[Logits, Tokens, Any], None], Callable[[Any], LogitsProcessor], Any]
] = [
    (penalize_repetition, RepetitionPenaltyLogitsProcessor, [0.5, 1.0, 1.3]),
    (block_repeated_ngrams, NoRepeatNGramLogitsProcessor, [1, 2, 3, 8]),
]


def random_logits(generator: np.random.Generator, spread: float) -> Logits:
    """Return (3, VOCAB) logits without ties, most of row 1 filtered out."""
    logits = generator.normal(scale=spread, size=(3, VOCAB)).astype(np.float32)
    logits[1, generator.random(VOCAB) < 0.9] = -np.inf
    return logits


def assert_same(logits: Logits, expected: torch.Tensor) -> None:
    np.testing.assert_array_equal(np.isneginf(logits), np.isneginf(expected.numpy()))
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spread", [0.01, 2.0, 30.0])
@pytest.mark.parametrize(
    ("ours", "theirs", "value"),
    [(ours, theirs, value) for ours, theirs, values in FILTERS for value in values],
)
def test_filters_as_transformers(
    ours: Callable[[Logits, Any], None],
    theirs: Callable[[Any], LogitsProcessor],
    value: float,
    spread: float,
) -> None:
    generator = np.random.default_rng(0)
    nothing = torch.zeros((3, 0), dtype=torch.int64)
    for _ in range(5):
        logits = random_logits(generator, spread)
        expected = theirs(value)(nothing, torch.from_numpy(logits.copy()))
        ours(logits, value)
        assert_same(logits, expected)


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize(
    ("ours", "theirs", "value"),
    [(ours, theirs, value) for ours, theirs, values in REPETITIONS for value in values],
)
def test_repetitions_as_transformers(
    ours: Callable[[Logits, Tokens, Any], None],
    theirs: Callable[[Any], LogitsProcessor],
    value: float,
    length: int,
) -> None:
    generator = np.random.default_rng(0)
    logits = random_logits(generator, 2.0)
    tokens = generator.integers(0, 3, size=(3, length))  # few ids, so that n-grams do repeat
    expected = theirs(value)(torch.from_numpy(tokens), torch.from_numpy(logits.copy()))
    ours(logits, list(tokens), value)
    assert_same(logits, expected)


@pytest.mark.parametrize("value", [0.05, 0.3, 0.9, 0.95])
def test_top_p_keeps_as_many_equals_as_transformers(value: float) -> None:
    """Which ones of equals is chance in Transformers: its sort is not a stable one."""
    logits = np.random.default_rng(0).normal(scale=2, size=(3, VOCAB)).round().astype(np.float32)
    nothing = torch.zeros((3, 0), dtype=torch.int64)
    expected = TopPLogitsWarper(value)(nothing, torch.from_numpy(logits.copy()))
    keep_top_p(logits, value)
    np.testing.assert_array_equal(np.sort(logits), np.sort(expected.numpy()))


def test_works_in_place_on_part_of_a_larger_array() -> None:
    logits = np.arange(12, dtype=np.float32).reshape(3, 4)
    keep_top_k(logits[1:2], 1)
    keep_top_p(logits[2:], 0.1)
    assert logits.tolist() == [[0, 1, 2, 3], [-INF, -INF, -INF, 7], [-INF, -INF, -INF, 11]]
