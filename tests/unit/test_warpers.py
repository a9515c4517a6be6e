"""Warpers (temperature, top-k, top-p and others) of logits, by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from edgeseq.runtime.logits.warpers import (
    apply_temperature,
    keep_epsilon,
    keep_eta,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical_p,
)
from tests.support.logits import Logits, changed

INF = float("inf")
HIGHEST = float(np.finfo(np.float32).max)


def kept(change: Callable[[Logits], None], *probabilities: float) -> list[int]:
    """Return the ids that stay; their logits must be what they were."""
    row = np.log(np.array(probabilities, dtype=np.float32)).tolist()
    (result,) = changed(change, row)
    ids = [index for index, logit in enumerate(result) if logit > -INF]
    assert [result[index] for index in ids] == [row[index] for index in ids]
    return ids


def test_temperature() -> None:
    halve = partial(apply_temperature, temperature=2.0)
    assert changed(halve, [1, -2, 0, -INF]) == [[0.5, -1, 0, -INF]]


@pytest.mark.parametrize(
    ("top_k", "least", "expected"),
    [
        (1, 1, [-INF, 4, -INF, -INF]),
        (2, 1, [-INF, 4, 3, -INF]),
        (1, 2, [-INF, 4, 3, -INF]),
        (3, 1, [1, 4, 3, 1]),  # a tie with the last one kept
        (4, 1, [1, 4, 3, 1]),
        (9, 1, [1, 4, 3, 1]),
        (1, 9, [1, 4, 3, 1]),
    ],
)
def test_top_k(top_k: int, least: int, expected: list[float]) -> None:
    assert changed(lambda logits: keep_top_k(logits, top_k, least), [1, 4, 3, 1]) == [expected]


def test_top_k_of_a_row_with_fewer_left() -> None:
    few, many = [-INF, 4, -INF, -INF], [1, 2, 3, 4]
    rows = changed(lambda logits: keep_top_k(logits, 2), few, many)
    assert rows == [[-INF, 4, -INF, -INF], [-INF, -INF, 3, 4]]


@pytest.mark.parametrize("left", [3, 50, 200])
def test_top_k_of_a_long_row_with_few_left(left: int) -> None:
    """In whole blocks all tokens are forbidden."""
    row = np.full((1, 9999), -np.inf, dtype=np.float32)
    places = np.random.default_rng(0).permutation(9999)[:left]
    row[0, places] = np.arange(left)
    keep_top_k(row, 50)
    assert np.flatnonzero(row[0] > -np.inf).tolist() == sorted(places[-50:].tolist())


@pytest.mark.parametrize(
    ("top_p", "least", "expected"),
    [
        (0.0, 1, [1]),
        (0.4, 1, [1]),
        (0.4, 3, [1, 2, 3]),
        (0.4, 9, [0, 1, 2, 3]),
        (0.55, 1, [1, 2]),  # of two equals the first one stays
        (0.4, 2, [1, 2]),
        (0.75, 1, [1, 2, 3]),
        (0.95, 1, [0, 1, 2, 3]),
        (1.0, 1, [0, 1, 2, 3]),
    ],
)
def test_top_p(top_p: float, least: int, expected: list[int]) -> None:
    assert kept(lambda logits: keep_top_p(logits, top_p, least), 0.1, 0.5, 0.2, 0.2) == expected


def test_top_p_that_is_reached_exactly() -> None:
    assert kept(lambda logits: keep_top_p(logits, 0.5), 0.25, 0.25, 0.25, 0.25) == [0, 1]


@pytest.mark.parametrize(
    ("min_p", "least", "expected"),
    [
        (0.0, 1, [0, 1, 2, 3]),
        (0.1, 1, [0, 1, 2, 3]),
        (0.3, 1, [1, 2, 3]),
        (0.45, 1, [1]),
        (0.45, 2, [1, 2]),  # of two equals the first one stays
        (0.45, 3, [1, 2, 3]),
        (1.0, 1, [1]),
        (1.0, 9, [0, 1, 2, 3]),
    ],
)
def test_min_p(min_p: float, least: int, expected: list[int]) -> None:
    assert kept(lambda logits: keep_min_p(logits, min_p, least), 0.1, 0.5, 0.2, 0.2) == expected


def test_min_p_that_is_met_exactly() -> None:
    assert kept(lambda logits: keep_min_p(logits, 0.5), 0.25, 0.5, 0.125, 0.125) == [0, 1]


@pytest.mark.parametrize(
    ("typical_p", "least", "expected"),
    [
        # The entropy is 1.75 bits; the tokens are 0.75, 0.25, 1.25 and 1.25 bits from it.
        (0.2, 1, [1]),  # not the most probable one
        (0.3, 1, [0, 1]),
        (0.7, 1, [0, 1]),
        (0.8, 1, [0, 1, 2, 3]),  # equals stay together
        (0.2, 2, [0, 1]),
        (0.2, 3, [0, 1, 2]),
        (0.2, 9, [0, 1, 2, 3]),
    ],
)
def test_typical_p(typical_p: float, least: int, expected: list[int]) -> None:
    def keep(logits: Logits) -> None:
        keep_typical_p(logits, typical_p, least)

    assert kept(keep, 0.5, 0.25, 0.125, 0.125) == expected


def test_typical_p_counts_what_is_rare_but_more_typical_than_the_most_probable() -> None:
    rare, usual = 0.02 / 5000, 0.68 / 10_000
    probabilities = [0.3] + [usual] * 10_000 + [rare] * 5000
    assert kept(lambda logits: keep_typical_p(logits, 0.69), *probabilities) == [*range(1, 15_001)]


@pytest.mark.parametrize(
    ("cutoff", "least", "expected"),
    [
        (0.05, 1, [0, 1, 2, 3]),
        (0.15, 1, [1, 2, 3]),
        (0.3, 1, [1]),
        (0.9, 1, [1]),
        (0.9, 2, [1, 2, 3]),  # equals stay together
        (0.9, 9, [0, 1, 2, 3]),
    ],
)
def test_epsilon(cutoff: float, least: int, expected: list[int]) -> None:
    assert kept(lambda logits: keep_epsilon(logits, cutoff, least), 0.1, 0.5, 0.2, 0.2) == expected


@pytest.mark.parametrize(
    ("cutoff", "least", "expected"),
    [
        # exp(-entropy) is 2**-1.75 = 0.297.
        (0.1, 1, [0, 1, 2, 3]),  # at least 0.094
        (0.5, 1, [0, 1]),  # at least 0.21
        (0.9, 1, [0]),  # at least 0.282
        (0.9, 3, [0, 1, 2, 3]),  # equals stay together
    ],
)
def test_eta(cutoff: float, least: int, expected: list[int]) -> None:
    def keep(logits: Logits) -> None:
        keep_eta(logits, cutoff, least)

    assert kept(keep, 0.5, 0.25, 0.125, 0.125) == expected


def test_eta_of_a_row_of_low_entropy() -> None:
    """The entropy is so low that sqrt(epsilon) * exp(-entropy) is above epsilon."""
    assert kept(lambda logits: keep_eta(logits, 0.02), 0.96, 0.025, 0.015) == [0, 1]


SOFT_WARPERS: list[tuple[Callable[..., None], float]] = [
    (keep_top_p, 0.3),
    (keep_min_p, 0.05),
    (keep_typical_p, 0.5),
    (keep_epsilon, 0.02),
    (keep_eta, 0.02),
]
WARPERS = [(keep_top_k, 1), *SOFT_WARPERS]


@pytest.mark.parametrize("row", [[-INF, -INF], [INF, 1.0], [INF, -INF]])
@pytest.mark.parametrize(("ours", "value"), SOFT_WARPERS)
def test_row_without_probabilities(
    ours: Callable[..., None], value: float, row: list[float]
) -> None:
    assert changed(lambda logits: ours(logits, value), row) == [row]


@pytest.mark.parametrize(("ours", "value"), WARPERS)
def test_row_with_nan(ours: Callable[..., None], value: float) -> None:
    (row,) = changed(lambda logits: ours(logits, value), [np.nan, 1.0])
    assert row == pytest.approx([np.nan, 1.0], nan_ok=True)


@pytest.mark.parametrize(("ours", "value"), WARPERS)
def test_most_different_numbers(ours: Callable[..., None], value: float) -> None:
    """No warning of what they overflow to; `remove_invalid_values` leaves such rows."""
    (row,) = changed(lambda logits: ours(logits, value), [-HIGHEST, HIGHEST, -HIGHEST, -INF])
    assert row == [-INF, HIGHEST, -INF, -INF]


def test_temperature_of_a_large_number() -> None:
    halve = partial(apply_temperature, temperature=0.5)
    assert changed(halve, [HIGHEST, -HIGHEST]) == [[INF, -INF]]


@pytest.mark.parametrize(("ours", "value"), WARPERS)
def test_no_rows(ours: Callable[..., None], value: float) -> None:
    ours(np.zeros((0, 7), dtype=np.float32), value)


def test_works_in_place_on_part_of_a_larger_array() -> None:
    logits = np.arange(12, dtype=np.float32).reshape(3, 4)
    keep_top_k(logits[1:2], 1)
    keep_top_p(logits[2:], 0.1)
    assert logits.tolist() == [[0, 1, 2, 3], [-INF, -INF, -INF, 7], [-INF, -INF, -INF, 11]]
