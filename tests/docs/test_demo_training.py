"""The training of the demo T5: the parts on which its figures depend."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from demos.t5.dictionary import (
    pronounce_source,
    spell_source,
    split,
    training_pairs,
    without_stress,
)
from demos.t5.evaluate import edit_distance, pronunciation_errors, spelling_errors
from demos.t5.tokenizer import build_tokenizer
from demos.t5.train import IGNORED, SHAPES, batches_of, encode
from demos.trainer import Plan

WORDS = {f"w{number:04}": [("W", "AH0")] for number in range(1000)}


def test_the_split_shares_no_word_and_loses_none() -> None:
    parts = split(WORDS)
    sizes = [len(part) for part in (parts.training, parts.validation, parts.test)]
    assert sizes == [940, 10, 50]
    assert {*parts.training, *parts.validation, *parts.test} == {*WORDS}


def test_the_split_follows_from_the_seed_alone() -> None:
    backwards = dict(reversed(WORDS.items()))
    assert list(split(WORDS).test) == list(split(backwards).test)
    assert list(split(WORDS).test) != list(split(WORDS, seed=1).test)


def test_every_word_is_learned_both_ways() -> None:
    words = {"read": [("R", "EH1", "D"), ("R", "IY1", "D")]}
    pairs = [p for seed in range(40) for p in training_pairs(words, np.random.default_rng(seed))]
    assert {source.lower() for source, _ in pairs[::2]} == {"pronounce: read"}
    assert {target for _, target in pairs[::2]} == {"R EH1 D", "R IY1 D"}
    assert {target for _, target in pairs[1::2]} == {"read"}
    assert "spell: R EH D" in {source for source, _ in pairs[1::2]}


@pytest.mark.parametrize(
    ("found", "expected", "distance"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("abcd", "bcde", 2),
    ],
)
def test_edit_distance(found: str, expected: str, distance: int) -> None:
    assert edit_distance(found, expected) == distance


def test_errors_are_against_the_nearest_pronunciation() -> None:
    words = {
        "read": [("R", "EH1", "D"), ("R", "IY1", "D")],
        "a": [("AH0",)],
    }
    spoken = [("R", "IY1", "D"), ("EY1", "AH0")]
    errors = pronunciation_errors(words, spoken, lambda pronunciation: pronunciation)
    assert errors == {"word_error_rate": 0.5, "phoneme_error_rate": 0.25}


def test_errors_without_stress() -> None:
    words = {"a": [("AH0",)]}
    spoken = [("AH1",)]
    assert pronunciation_errors(words, spoken, without_stress)["word_error_rate"] == 0
    assert pronunciation_errors(words, spoken, lambda p: p)["word_error_rate"] == 1


def test_a_homophone_is_spelled_right() -> None:
    words = {"blue": [("B", "L", "UW1")], "red": [("R", "EH1", "D")]}
    everything = {**words, "blew": [("B", "L", "UW1")]}
    assert spelling_errors(words, ["blew", "redd"], everything) == {
        "word_error_rate": 0.5,
        "word_error_rate_without_homophones": 1.0,
    }


def test_the_tokenizer_cuts_letters_and_phonemes() -> None:
    tokenizer = build_tokenizer()
    tokens = tokenizer.encode(pronounce_source("Café’s")).tokens
    assert tokens == ["▁pronounce:", "▁", "C", "a", "f", "e", "'", "s", "</s>"]
    source = spell_source(("CH", "AY1", "L", "D"))
    assert tokenizer.encode(source).tokens == ["▁spell:", "▁CH", "▁AY1", "▁L", "▁D", "</s>"]
    assert tokenizer.decode(tokenizer.encode("CH AY1 L D").ids) == "CH AY1 L D"


def test_batches_hold_texts_of_like_length() -> None:
    tokenizer = build_tokenizer()
    pairs = [("pronounce: cat", "K AE1 T")] * SHAPES[0][1]
    batch = batches_of(encode(pairs, tokenizer), range(len(pairs)))[0]
    source, labels = batch
    assert source.shape == labels.shape == (SHAPES[0][1], SHAPES[0][0])
    assert labels[0].tolist()[3:] == [1] + [IGNORED] * 6
    assert torch.equal(source[0], source[-1])


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    plan = Plan(
        steps=1000,
        seed=0,
        muon_learning_rate=1.0,
        adam_learning_rate=1.0,
        decay_share=0.5,
        save_every=10,
    )
    shares = [plan.learning_rate_share(step) for step in (0, 99, 500, 750, 1000)]
    assert shares == [0.01, 1.0, 1.0, 0.5, 0.0]
