"""Greedy and beam search of every family and shape, compared with Transformers 4.57.6.

Export has compared the logits already: within 1e-4 of the largest (``export/verification.py``).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, load
from tests.support.checkpoints import unigram_tokenizer
from tests.support.family_checkpoints import NAMES, SHAPES, seeded_model

NEW_TOKENS = 64
LENGTHS = (3, 12, 1, 7, 5)
TOLERANCE = 1e-4


class Subject(NamedTuple):
    """A model in both libraries, and prompts of different lengths."""

    model: Model
    network: Any
    prompts: Sequence[Sequence[int]]


@pytest.fixture(scope="module")
def subject_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    @functools.cache
    def make(name: str) -> Subject:
        folder = tmp_path_factory.mktemp(name)
        network = seeded_model(name)
        network.save_pretrained(folder / "checkpoint")
        unigram_tokenizer().save_pretrained(folder / "checkpoint")
        bundle = export_checkpoint(folder / "checkpoint", folder / "bundle")
        network.generation_config = GenerationConfig(pad_token_id=1, decoder_start_token_id=0)
        rng = np.random.default_rng(0)
        vocabulary = min(network.config.vocab_size, 300)
        prompts = [rng.integers(4, vocabulary, size=length).tolist() for length in LENGTHS]
        return Subject(load(bundle.folder, threads=1), network, prompts)

    return make


@torch.no_grad()
def expected(network: Any, prompt: Sequence[int], options: dict[str, Any]) -> list[int]:
    """Return Transformers' new tokens for one prompt, with the end of sequence."""
    ids = torch.tensor([prompt])
    output = network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)
    first = 1 if network.config.is_encoder_decoder else len(prompt)
    new: list[int] = output[0, first:].tolist()
    ends = [place for place, token in enumerate(new) if token in (options["eos_token_id"] or ())]
    return new[: ends[0] + 1] if ends else new


def assert_same(subject: Subject, options: dict[str, Any]) -> list[list[int]]:
    """Compare all prompts in one batch, and the first alone; return Transformers' tokens."""
    wanted = [expected(subject.network, prompt, options) for prompt in subject.prompts]
    results = subject.model.generate_ids(subject.prompts, **options)
    [alone] = subject.model.generate_ids(subject.prompts[:1], **options)
    found = [list(result.token_ids) for result in results]
    assert list(alone.token_ids) == found[0]
    if found != wanted:  # two tokens may be as probable: then float64 decides otherwise too
        exact = copy.deepcopy(subject.network).double()
        precise = [expected(exact, prompt, options) for prompt in subject.prompts]
        rows = [row for row in range(len(found)) if found[row] != wanted[row]]
        assert [found[row] for row in rows] == [precise[row] for row in rows]
    return wanted


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_transformers(
    name: str, beams: int, subject_of: Callable[[str], Subject]
) -> None:
    subject = subject_of(name)
    options = {"num_beams": beams, "max_new_tokens": NEW_TOKENS, "eos_token_id": None}
    assert_same(subject, options)
    # Some models repeat themselves. A text without repeated pairs of tokens is varied.
    options |= {"no_repeat_ngram_size": 2}
    varied = assert_same(subject, options)
    assert min(len({*text}) for text in varied) > 8
    options |= {"eos_token_id": varied[0][4:8]}
    ended = assert_same(subject, options)
    assert min(map(len, ended)) < NEW_TOKENS


def test_every_family_has_four_shapes() -> None:
    assert min(map(len, SHAPES.values())) >= 4


def test_logits_of_the_last_position_are_reached(subject_of: Callable[[str], Subject]) -> None:
    """Generation ends at the last position of the table of positions."""
    subject = subject_of("bart-0")
    positions = subject.model.bundle.manifest.dimensions.max_positions
    [result] = subject.model.generate_ids(
        subject.prompts[:1], max_new_tokens=500, do_sample=False, eos_token_id=None
    )
    assert positions is not None
    assert result.finish_reason == "length"
    assert len(result.token_ids) in (positions - 1, positions)


def test_a_source_longer_than_the_positions_is_refused(
    subject_of: Callable[[str], Subject],
) -> None:
    subject = subject_of("bart-0")
    with pytest.raises(ValueError, match="reads at most 96"):
        subject.model.generate_ids([[5] * 97])


def test_a_source_may_have_a_larger_vocabulary_than_the_target(
    tmp_path: Path,
) -> None:
    """Marian may have a vocabulary for each side; Transformers' beam search fails then."""
    network = seeded_model("marian-3", decoder_vocab_size=200)
    network.save_pretrained(tmp_path / "checkpoint")
    unigram_tokenizer().save_pretrained(tmp_path / "checkpoint")
    model = load(export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle").folder, threads=1)
    prompt = [250, 310, 7, 299]
    options = {"max_new_tokens": 20, "eos_token_id": None, "num_beams": 1}
    network.generation_config = GenerationConfig(pad_token_id=1, decoder_start_token_id=0)
    [result] = model.generate_ids([prompt], **options)
    assert list(result.token_ids) == expected(network, prompt, options)
    for name, value in {
        "encoder_repetition_penalty": 1.5,
        "encoder_no_repeat_ngram_size": 1,
    }.items():
        [result] = model.generate_ids([prompt], max_new_tokens=5, **{name: value})
        assert max(result.token_ids) < 200
    with pytest.raises(ValueError, match="from 0 to 319"):
        model.generate_ids([[320]])
    with pytest.raises(ValueError, match="from 0 to 199"):
        model.generate_ids([prompt], decoder_input_ids=[250])
