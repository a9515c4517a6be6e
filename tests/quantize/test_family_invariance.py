"""Quantized bundles of the families besides GPT-2 and T5 keep the promise about batches.

A row has the same logits, bit for bit, alone and in a batch: ``docs/how-it-works/quantization.md``.
With a decoder-only model and an INT8 KV cache the same holds for any cut of a prompt into chunks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.export import export_checkpoint
from edgeseq.quantize import quantize_bundle
from edgeseq.runtime import Model, load
from tests.support.checkpoints import unigram_tokenizer
from tests.support.family_checkpoints import SHAPES, seeded_model

OPTIONS = {"do_sample": False, "eos_token_id": None, "logprobs": 0, "no_repeat_ngram_size": 2}
LENGTHS = (3, 17, 1, 33, 8)
DECODER_ONLY = ("opt-1", "gpt_neo-0", "gpt_neox-0", "gpt_neox-2", "gptj-0", "gptj-2")
PAIRS = "a fox\tthe clever fox\nhome\tgo home\nking\tthe old king\n"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Model]:
    @functools.cache
    def float_bundle(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        seeded_model(name).save_pretrained(folder / "checkpoint")
        unigram_tokenizer().save_pretrained(folder / "checkpoint")
        return export_checkpoint(folder / "checkpoint", folder / "bundle").folder

    def make(name: str, recipe: str) -> Model:
        bundle = float_bundle(name)
        text = None
        if not name.startswith(("opt", "gpt")):
            text = bundle.parent / "pairs.tsv"
            text.write_text(PAIRS, encoding="utf-8")
        out = bundle.parent / recipe
        quantize_bundle(bundle, out, recipe=recipe, text=text, allow_loss=True)
        return load(out, threads=1)

    return make


def prompts_of(model: Model) -> list[list[int]]:
    rng = np.random.default_rng(0)
    vocabulary = model.bundle.manifest.dimensions.vocabulary
    return [rng.integers(4, vocabulary, size=length).tolist() for length in LENGTHS]


def outputs(results: list[Any]) -> list[tuple[Any, ...]]:
    return [(result.token_ids, result.logprobs) for result in results]


@pytest.mark.parametrize("recipe", ["int8", "int4"])
@pytest.mark.parametrize("name", [*DECODER_ONLY, *(f"{f}-0" for f in SHAPES if "gpt" not in f)])
def test_a_batch_changes_no_bit(
    name: str, recipe: str, quantized: Callable[[str, str], Model]
) -> None:
    model = quantized(name, recipe)
    prompts = prompts_of(model)
    together = outputs(model.generate_ids(prompts, max_new_tokens=20, **OPTIONS))
    alone = [model.generate_ids([ids], max_new_tokens=20, **OPTIONS)[0] for ids in prompts]
    assert outputs(alone) == together


@pytest.mark.parametrize("name", DECODER_ONLY)
def test_chunks_change_no_bit(name: str, quantized: Callable[[str, str], Model]) -> None:
    model = quantized(name, "int8-weights")
    prompt = prompts_of(model)[3]
    fresh = model.generate_ids([prompt], max_new_tokens=20, **OPTIONS)
    with model.session() as session:
        for end in (5, 7, 20):
            session.generate_ids(prompt[:end], max_new_tokens=1, **OPTIONS)
        continued = session.generate_ids(prompt, max_new_tokens=20, **OPTIONS)
    assert outputs(continued) == outputs(fresh)
