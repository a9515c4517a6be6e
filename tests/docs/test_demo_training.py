"""The training of the demo models: data, templates, and what the figures depend on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from demos.t5.dictionary import (
    pronounce_source,
    spell_source,
    split,
    training_pairs,
    without_stress,
)
from demos.t5.evaluate import edit_distance, pronunciation_errors, spelling_errors
from demos.t5.pairs import fixed_pairs, write_pairs
from demos.t5.tokenizer import build_tokenizer, save_tokenizer
from edgeseq.training import train
from edgeseq.training.data import Pair, read_dataset
from edgeseq.training.template import read_template

DEMOS = Path(__file__).resolve().parents[2] / "demos"
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


def test_pairs_are_written_as_training_reads_them(tmp_path: Path) -> None:
    pairs = fixed_pairs({"read": [("R", "EH1", "D"), ("R", "IY1", "D")]})
    assert pairs == [("pronounce: read", "R EH1 D"), ("spell: R EH1 D", "read")]
    write_pairs(pairs, tmp_path / "pairs.jsonl")
    write_pairs([("a", "b")], tmp_path / "others.jsonl")
    settings = read_template(DEMOS / "t5" / "template.toml").data
    found = read_dataset(settings, [tmp_path / "others.jsonl"], [tmp_path / "pairs.jsonl"])
    assert [
        (pair.source, pair.target) for pair in found.held_out if isinstance(pair, Pair)
    ] == pairs
    write_pairs(pairs, tmp_path / "pairs.tsv")
    assert (tmp_path / "pairs.tsv").read_text(encoding="utf-8").startswith("pronounce: read\tR EH1")


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_templates_have_the_shapes_of_the_checkpoints(name: str) -> None:
    template = read_template(DEMOS / name / "template.toml")
    config = json.loads((DEMOS / name / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    assert {key: config[key] for key in template.model} == template.model


def test_the_template_names_the_tokenizer_that_the_script_makes(tmp_path: Path) -> None:
    save_tokenizer(build_tokenizer(), tmp_path)
    path = Path(read_template(DEMOS / "t5" / "template.toml").tokenizer["path"])
    made, kept = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        for folder in (tmp_path, DEMOS.parent / path)
    )
    assert made == kept


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_templates_train(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEMOS.parent)  # the T5's template names its tokenizer from there
    if name == "t5":
        data = tmp_path / "pairs.jsonl"
        words = {f"{first}{last}": [("K", "AE1", "T")] for first in "cfk" for last in ("at", "ox")}
        write_pairs(fixed_pairs(words), data)
    else:
        data = tmp_path / "tales.txt"
        tales = [f"The fox said {number} words.\n\nThe king laughed." for number in range(40)]
        data.write_text("\n\n\n".join(tales), encoding="utf-8")
    few = {
        "trainer.max_steps": "2",
        "trainer.warmup_steps": "1",
        "trainer.lr_scheduler_kwargs": '{ num_decay_steps = 1, decay_type = "linear" }',
        "trainer.per_device_train_batch_size": "2",
        "data.held_out": "0.25",
    }
    template = DEMOS / name / "template.toml"
    result = train(template, [data], tmp_path / "out", overrides=few, threads=1)
    trained, kept = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for folder in (result.checkpoint, DEMOS / name / "checkpoint")
    )
    for config in (trained, kept):
        for key in ("vocab_size", "dtype"):  # a few tales make fewer tokens
            config.pop(key)
    assert trained == kept
