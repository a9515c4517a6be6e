"""Masks of logits: by hand, and compared with Transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers.generation.logits_process import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from edgeseq.runtime.logits.masks import (
    force_at,
    keep_allowed,
    replace_invalid,
    suppress,
    suppress_at,
    suppress_before,
)
from edgeseq.runtime.logits.softmax import normalize
from tests.support.logits import Logits, assert_same_logits, changed

INF = float("inf")
HIGHEST = float(np.finfo(np.float32).max)
Tokens = list[npt.NDArray[np.int64]]


def texts(*lengths: int) -> Tokens:
    return [np.zeros(length, dtype=np.int64) for length in lengths]


@pytest.mark.parametrize("as_given", [list, tuple, np.array])
def test_suppress(as_given: Callable[[list[int]], Any]) -> None:
    rows = changed(lambda logits: suppress(logits, as_given([2, 0])), [1, 2, 3], [4, -INF, 6])
    assert rows == [[-INF, 2, -INF], [-INF, -INF, -INF]]


def test_suppress_nothing() -> None:
    assert changed(lambda logits: suppress(logits, []), [1, 2, 3]) == [[1, 2, 3]]


def test_suppress_before() -> None:
    def change(logits: Logits) -> None:
        suppress_before(logits, texts(2, 3, 0, 9), [3, 3, 1, 0], (0, 2))

    rows = changed(change, [1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3])
    assert rows == [[-INF, 2, -INF], [1, 2, 3], [-INF, 2, -INF], [1, 2, 3]]


def test_suppress_at() -> None:
    def change(logits: Logits) -> None:
        suppress_at(logits, texts(2, 3, 4, 0), [3, 3, 3, 0], (0, 2))

    rows = changed(change, [1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3])
    assert rows == [[1, 2, 3], [-INF, 2, -INF], [1, 2, 3], [-INF, 2, -INF]]


def test_force_at() -> None:
    def change(logits: Logits) -> None:
        force_at(logits, texts(2, 3, 4), [3, 3, 3], (0, 2))

    rows = changed(change, [1, 2, 3], [-INF, 2, 3], [1, 2, 3])
    assert rows == [[1, 2, 3], [0, -INF, 0], [1, 2, 3]]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((2, 0, 2), [1, -INF, 3, -INF]),
        ([3], [-INF, -INF, -INF, -INF]),  # it had been forbidden
        (np.array([1]), [-INF, 2, -INF, -INF]),
        ([], [-INF, -INF, -INF, -INF]),
    ],
)
def test_keep_allowed(ids: Any, expected: list[float]) -> None:
    assert changed(lambda logits: keep_allowed(logits[0], ids), [1, 2, 3, -INF]) == [expected]


def test_replace_invalid() -> None:
    rows = changed(replace_invalid, [np.nan, INF, -INF, 1.5], [HIGHEST, -HIGHEST, 0, -1])
    assert rows == [[0, HIGHEST, -HIGHEST, 1.5], [HIGHEST, -HIGHEST, 0, -1]]


def test_normalize() -> None:
    rows = changed(normalize, np.log([1, 2, 5, 8]).tolist(), [7, -INF, 7, -INF], [3, 0, 0, 0])
    assert rows[0] == pytest.approx(np.log([1 / 16, 1 / 8, 5 / 16, 1 / 2]), abs=1e-6)
    assert rows[1] == pytest.approx([-np.log(2), -INF, -np.log(2), -INF], abs=1e-6)
    assert np.exp(rows[2]).sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("row", [[-INF, -INF], [np.nan, 1.0], [INF, 1.0], [np.nan, -INF]])
def test_normalize_a_row_without_probabilities(row: list[float]) -> None:
    rows = changed(normalize, row, [1.0, -INF])
    assert rows[0] == pytest.approx(row, nan_ok=True)
    assert rows[1] == pytest.approx([0.0, -INF], abs=1e-6)


def test_normalize_the_most_different_numbers() -> None:
    assert changed(normalize, [HIGHEST, -HIGHEST, -INF]) == [[0.0, -INF, -INF]]


def test_normalize_keeps_small_differences_of_large_numbers() -> None:
    (row,) = changed(normalize, [2.0**20 + 0.5, 2.0**20, 2.0**20 - 1])
    assert row == pytest.approx([-0.60413, -1.10413, -2.10413], abs=1e-5)


def test_works_in_place_on_part_of_a_larger_array() -> None:
    logits = np.zeros((3, 4), dtype=np.float32)
    logits[1, 1:3] = np.nan, -np.inf
    replace_invalid(logits[1:2])
    suppress(logits[2:, 1:], [0])
    normalize(logits[:1, :2])
    assert logits[0].tolist() == pytest.approx([-np.log(2), -np.log(2), 0, 0])
    assert logits[1:].tolist() == [[0, 0, -HIGHEST, 0], [0, -INF, 0, 0]]


def test_no_rows() -> None:
    logits = np.zeros((0, 7), dtype=np.float32)
    suppress(logits, [1])
    for change in (suppress_before, suppress_at, force_at):
        change(logits, [], [], [1])
    replace_invalid(logits)
    normalize(logits)


LENGTHS = [1, 4, 5, 6]
IDS = [6, 0, 3]
AT_A_PLACE: list[tuple[Callable[..., None], list[int], Callable[[], LogitsProcessor]]] = [
    (suppress_before, [5, 5], lambda: MinLengthLogitsProcessor(5, IDS)),
    (suppress_before, [2 + 3, 2 + 3], lambda: MinNewTokensLengthLogitsProcessor(2, 3, IDS)),
    (suppress_at, [5, 5], lambda: SuppressTokensAtBeginLogitsProcessor(IDS, 5)),
    (force_at, [5, 5], lambda: ForcedEOSTokenLogitsProcessor(6, IDS)),
]


def random_logits(vocab: int, seed: int, spread: float = 3.0) -> Logits:
    """Return (2, vocab) logits, most of row 1 forbidden."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=spread, size=(2, vocab)).astype(np.float32)
    logits[1, generator.random(vocab) < 0.8] = -np.inf
    logits[1, 2] = 1.0
    return logits


@pytest.mark.parametrize("vocab", [7, 503])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("ours", "lengths", "theirs"), AT_A_PLACE)
def test_masks_at_a_position_as_transformers(
    ours: Callable[..., None],
    lengths: list[int],
    theirs: Callable[[], LogitsProcessor],
    length: int,
    vocab: int,
) -> None:
    logits = random_logits(vocab, seed=length)
    tokens = torch.zeros((2, length), dtype=torch.int64)
    expected = theirs()(tokens, torch.from_numpy(logits.copy()))
    ours(logits, list(tokens.numpy()), lengths, IDS)
    assert_same_logits(logits, expected)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_forced_bos_as_transformers(length: int) -> None:
    logits = random_logits(7, seed=0)
    tokens = torch.zeros((2, length), dtype=torch.int64)
    expected = ForcedBOSTokenLogitsProcessor(3)(tokens, torch.from_numpy(logits.copy()))
    force_at(logits, list(tokens.numpy()), [1, 1], [3])
    assert_same_logits(logits, expected)


def test_allowed_suppressed_and_invalid_as_transformers() -> None:
    tokens = torch.zeros((2, 1), dtype=torch.int64)
    logits = random_logits(503, seed=0)
    allowed = PrefixConstrainedLogitsProcessor(lambda *_: IDS, num_beams=1)
    expected = allowed(tokens, torch.from_numpy(logits.copy()))
    for row in logits:
        keep_allowed(row, IDS)
    assert_same_logits(logits, expected)

    logits = random_logits(503, seed=1)
    expected = SuppressTokensLogitsProcessor(IDS)(tokens, torch.from_numpy(logits.copy()))
    suppress(logits, IDS)
    assert_same_logits(logits, expected)

    logits[:, 10:12] = np.nan, np.inf
    expected = InfNanRemoveLogitsProcessor()(tokens, torch.from_numpy(logits.copy()))
    replace_invalid(logits)
    assert logits.tolist() == expected.tolist()


@pytest.mark.parametrize("shift", [0.0, -100.0, 1e4])
@pytest.mark.parametrize("spread", [0.01, 3.0, 40.0])
@pytest.mark.parametrize("vocab", [7, 503, 2000, 50257])
def test_normalize_as_transformers(vocab: int, spread: float, shift: float) -> None:
    for seed in range(3):
        logits = random_logits(vocab, seed, spread) + np.float32(shift)
        tokens = torch.zeros((2, 1), dtype=torch.int64)
        expected = LogitNormalization()(tokens, torch.from_numpy(logits.copy())).numpy()
        normalize(logits)
        np.testing.assert_array_equal(np.isneginf(logits), np.isneginf(expected))
        np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_chain_as_transformers(length: int) -> None:
    logits = random_logits(503, seed=length)
    tokens = torch.zeros((2, length), dtype=torch.int64)
    expected = torch.from_numpy(logits.copy())
    for processor in (
        MinLengthLogitsProcessor(5, IDS),
        ForcedEOSTokenLogitsProcessor(6, [2, 3]),
        SuppressTokensLogitsProcessor([1, 4]),
        SuppressTokensAtBeginLogitsProcessor([2], 4),
        LogitNormalization(),
    ):
        expected = processor(tokens, expected)
    text = list(tokens.numpy())
    suppress_before(logits, text, [5, 5], IDS)
    force_at(logits, text, [5, 5], [2, 3])
    suppress(logits, [1, 4])
    suppress_at(logits, text, [4, 4], [2])
    normalize(logits)
    assert_same_logits(logits, expected)
