"""Penalties and biases of logits, compared with Transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    LogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from edgeseq.runtime.logits.penalties import (
    SequenceBias,
    block_repeated_ngrams,
    block_source_ngrams,
    decay_length,
    penalize_repetition,
    reward_sources,
)
from tests.support.logits import Logits, assert_same_logits

INF = float("inf")
Tokens = list[npt.NDArray[np.int64]]
SOURCES = np.random.default_rng(7).integers(0, 3, size=(3, 12))
PROMPT = 4
ENDS = [1, 6]
SEQUENCES = [s for size in (1, 2, 3) for s in itertools.product(range(3), repeat=size)]
VALUES = np.random.default_rng(3).normal(size=len(SEQUENCES)).tolist()
BIASES = {**dict(zip(SEQUENCES, VALUES, strict=True)), (0,) * 99: 5.0, (1, 2): -INF}
BAD_WORDS = [[5], [0, 1], [2, 2, 0], [1, 1]]


def random_logits(generator: np.random.Generator, vocab: int) -> Logits:
    """Return (3, vocab) logits, most of row 1 forbidden."""
    logits = generator.normal(scale=3.0, size=(3, vocab)).astype(np.float32)
    logits[1, generator.random(vocab) < 0.8] = -np.inf
    return logits


def our_bias(logits: Logits, tokens: Tokens, biases: dict[tuple[int, ...], float]) -> None:
    SequenceBias(list(biases.items()))(logits, tokens)


def our_bad_words(logits: Logits, tokens: Tokens, words: list[list[int]]) -> None:
    SequenceBias([(tuple(word), -INF) for word in words])(logits, tokens)


def our_reward(logits: Logits, tokens: Tokens, penalty: float) -> None:
    reward_sources(logits, list(SOURCES), penalty)


def our_source_ngrams(logits: Logits, tokens: Tokens, size: int) -> None:
    block_source_ngrams(logits, tokens, list(SOURCES), size)


def our_decay(logits: Logits, tokens: Tokens, decay: tuple[int, float]) -> None:
    decay_length(logits, tokens, [PROMPT] * 3, *decay, ENDS)


def their_reward(penalty: float) -> LogitsProcessor:
    return EncoderRepetitionPenaltyLogitsProcessor(penalty, torch.from_numpy(SOURCES))


def their_source_ngrams(size: int) -> LogitsProcessor:
    return EncoderNoRepeatNGramLogitsProcessor(size, torch.from_numpy(SOURCES))


def their_decay(decay: tuple[int, float]) -> LogitsProcessor:
    return ExponentialDecayLengthPenalty(decay, ENDS, PROMPT)


PENALTIES: list[tuple[Callable[..., None], Callable[[Any], LogitsProcessor], list[Any]]] = [
    (penalize_repetition, RepetitionPenaltyLogitsProcessor, [0.5, 1.0, 1.3]),
    (our_reward, their_reward, [0.5, 1.0, 1.3]),
    (block_repeated_ngrams, NoRepeatNGramLogitsProcessor, [1, 2, 3, 8]),
    (our_source_ngrams, their_source_ngrams, [1, 2, 3, 8, 13]),
    (our_bias, SequenceBiasLogitsProcessor, [BIASES]),
    (our_bad_words, NoBadWordsLogitsProcessor, [BAD_WORDS]),
    (our_decay, their_decay, [(0, 1.05), (3, 1.5), (2, 0.9)]),
]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(
    ("ours", "theirs", "value"),
    [(ours, theirs, value) for ours, theirs, values in PENALTIES for value in values],
)
def test_as_transformers(
    ours: Callable[..., None], theirs: Callable[[Any], LogitsProcessor], value: Any, length: int
) -> None:
    for vocab in (7, 503, 2000):
        generator = np.random.default_rng(vocab)
        logits = random_logits(generator, vocab)
        if theirs is their_decay:  # which makes NaN of what had been forbidden
            logits[:, ENDS] = generator.normal(size=(3, 2))
        tokens = generator.integers(0, 3, size=(3, length))  # few ids, so that n-grams do repeat
        expected = theirs(value)(torch.from_numpy(tokens), torch.from_numpy(logits.copy()))
        ours(logits, list(tokens), value)
        assert_same_logits(logits, expected)


@pytest.mark.parametrize("length", [1, 5, 20])
def test_chain_as_transformers(length: int) -> None:
    generator = np.random.default_rng(length)
    logits = random_logits(generator, 503)
    logits[:, ENDS] = 2.0
    tokens = generator.integers(0, 3, size=(3, length))
    expected = torch.from_numpy(logits.copy())
    # As in `generate`, where decay comes last, but it makes NaN of what the n-grams forbid.
    chain = [(4, {(2,): 0.5, (0, 1): 1.5}), (1, 1.2), (0, 1.3), (6, (1, 1.01)), (2, 3), (3, 4)]
    for index, value in chain:
        ours, theirs, _ = PENALTIES[index]
        expected = theirs(value)(torch.from_numpy(tokens), expected)
        ours(logits, list(tokens), value)
    assert_same_logits(logits, expected)
