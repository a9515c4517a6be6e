"""Warpers of logits, compared with Transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from edgeseq.runtime.logits.warpers import (
    apply_temperature,
    keep_epsilon,
    keep_eta,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical_p,
)
from tests.support.logits import Logits, assert_same_logits

NOTHING = torch.zeros((3, 0), dtype=torch.int64)
Keep = Callable[..., None]

WARPERS: list[tuple[Keep, Callable[..., Any], list[Any]]] = [
    (keep_top_k, TopKLogitsWarper, [1, 5, 50, 502, 503, 5030]),
    (keep_top_p, TopPLogitsWarper, [0.0, 0.05, 0.3, 0.9, 0.95, 0.999]),
    (keep_min_p, MinPLogitsWarper, [0.0, 1e-6, 0.05, 0.3, 1.0]),
    (keep_typical_p, TypicalLogitsWarper, [0.01, 0.2, 0.5, 0.9, 0.999]),
    (keep_epsilon, EpsilonLogitsWarper, [1e-6, 3e-4, 0.02, 0.5, 0.99]),
    (keep_eta, EtaLogitsWarper, [1e-6, 3e-4, 0.02, 0.5, 0.99]),
]


def random_logits(generator: np.random.Generator, vocab: int, spread: float) -> Logits:
    """Return (3, vocab) logits without ties, most of row 1 and all but one of row 2 left out."""
    logits = generator.normal(scale=spread, size=(3, vocab)).astype(np.float32)
    logits[1, generator.random(vocab) < 0.9] = -np.inf
    logits[1, 1] = 0.5
    logits[2, 1:] = -np.inf
    return logits


def assert_same(logits: Logits, expected: torch.Tensor) -> None:
    assert_same_logits(logits, expected)
    probabilities = torch.from_numpy(logits).softmax(dim=-1).numpy()
    np.testing.assert_allclose(probabilities, expected.softmax(dim=-1).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("spread", [0.01, 2.0, 30.0])
@pytest.mark.parametrize("vocab", [7, 64, 503, 2000])
@pytest.mark.parametrize(
    ("ours", "theirs", "value"),
    [(ours, theirs, value) for ours, theirs, values in WARPERS for value in values],
)
def test_as_transformers(
    ours: Keep, theirs: Callable[..., Any], value: Any, vocab: int, spread: float
) -> None:
    if ours is keep_typical_p:
        spread = max(spread, 1.0)  # or torch's rounding of the entropy decides which tokens stay
    for seed in range(3):
        before = random_logits(np.random.default_rng(seed), vocab, spread)
        for least in (1, 2, 6):
            warper = theirs(value, min_tokens_to_keep=least)
            logits = before.copy()
            ours(logits, value, least)
            assert_same(logits, warper(NOTHING, torch.from_numpy(before.copy())))


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.0])
def test_temperature_as_transformers(temperature: float) -> None:
    logits = random_logits(np.random.default_rng(0), 503, 2.0)
    expected = TemperatureLogitsWarper(temperature)(NOTHING, torch.from_numpy(logits.copy()))
    apply_temperature(logits, temperature)
    assert_same(logits, expected)


@pytest.mark.parametrize("least", [1, 4])
@pytest.mark.parametrize(
    ("ours", "theirs", "value"),
    [(ours, theirs, value) for ours, theirs, values in WARPERS for value in values[1:-1]],
)
def test_keeps_as_many_equals_as_transformers(
    ours: Keep, theirs: Callable[..., Any], value: Any, least: int
) -> None:
    """Transformers' sort is not stable, so only the number of kept logits is compared."""
    logits = np.random.default_rng(0).normal(scale=2, size=(3, 503)).round().astype(np.float32)
    expected = theirs(value, min_tokens_to_keep=least)(NOTHING, torch.from_numpy(logits.copy()))
    before = logits.copy()
    ours(logits, value, least)
    np.testing.assert_array_equal(np.sort(logits), np.sort(expected.numpy()))
    for row, all_of_row in zip(logits, before, strict=True):
        for logit in np.unique(row[row > -np.inf]):
            stays = row[all_of_row == logit] == logit
            assert not (~stays[:-1] & stays[1:]).any()  # of equals the first ones stay


@pytest.mark.parametrize("vocab", [64, 503, 2000])
@pytest.mark.parametrize("seed", range(4))
def test_chain_as_transformers(seed: int, vocab: int) -> None:
    logits = random_logits(np.random.default_rng(seed), vocab, 3.0)
    theirs = LogitsProcessorList([TemperatureLogitsWarper(0.8), TopKLogitsWarper(40)])
    theirs += [TopPLogitsWarper(0.95), MinPLogitsWarper(0.01), TypicalLogitsWarper(0.9)]
    theirs += [EpsilonLogitsWarper(0.02), EtaLogitsWarper(0.1)]
    expected = theirs(NOTHING, torch.from_numpy(logits.copy()))
    apply_temperature(logits, 0.8)
    keep_top_k(logits, 40)
    keep_top_p(logits, 0.95)
    keep_min_p(logits, 0.01)
    keep_typical_p(logits, 0.9)
    keep_epsilon(logits, 0.02)
    keep_eta(logits, 0.1)
    assert_same(logits, expected)
