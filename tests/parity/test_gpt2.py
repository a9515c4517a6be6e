"""Differently shaped GPT-2 models: the same tokens and logits as Transformers with eager attention.

Each configuration is exported once. Its weights are random but chosen so that texts vary, and an
end token is picked from the reference's own texts so that some rows end early and others run on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, load
from edgeseq.runtime.ort.graph_session import open_session
from edgeseq.runtime.ort.memory import CpuMemory
from edgeseq.runtime.ort.onnx_decoder import OnnxDecoder
from tests.support.texts import choose_end_token, cut

NEW_TOKENS = 64
TOLERANCE = 1e-4
MARGIN = 2 * TOLERANCE  # between the two best logits: a mismatch below is never a near tie
PROMPT_LENGTHS = (3, 9, 1, 20, 32)  # the last one fills the 96 positions with its new tokens

ALL_FLAGS = {
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "reorder_and_upcast_attn": True,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "head_size_12": {},
    "head_size_10": {"n_embd": 40},
    "head_size_20_of_3_heads": {"n_embd": 60, "n_head": 3},
    "head_size_64": {"n_embd": 128, "n_head": 2, "initializer_range": 0.2},
    "one_layer": {"n_layer": 1, "activation_function": "quick_gelu"},
    "one_head": {"n_head": 1, "layer_norm_epsilon": 1e-3},
    "tied": {"tie_word_embeddings": True},
    "unscaled": {"scale_attn_weights": False},
    "by_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "reordered": {"reorder_and_upcast_attn": True, "n_head": 3, "seed": 1},
    "all_flags": {**ALL_FLAGS, "n_layer": 3},
    "all_flags_tied_head_size_10": {**ALL_FLAGS, "tie_word_embeddings": True, "n_embd": 40},
    "n_inner": {"n_inner": 72, "activation_function": "silu", "seed": 1},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu", "vocab_size": 317},
}


@dataclass(frozen=True)
class Case:
    """A configuration's model in both libraries, and Transformers' texts for the prompts."""

    reference: GPT2LMHeadModel
    model: Model
    prompts: list[list[int]]
    texts: list[list[int]]  # NEW_TOKENS for each prompt, without an end token


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def case(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    greedy_ids: Callable[..., list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    config = {"bos_token_id": None, "eos_token_id": None, **CONFIGURATIONS[request.param]}
    folder = make_checkpoint(**config)
    reference = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    make_varied(reference)
    reference.save_pretrained(folder)
    bundle = export_checkpoint(folder, tmp_path_factory.mktemp("bundle") / "gpt2")
    rng = np.random.default_rng(0)
    prompts = [rng.integers(reference.config.vocab_size, size=n).tolist() for n in PROMPT_LENGTHS]
    texts = [greedy_ids(reference, prompt, NEW_TOKENS) for prompt in prompts]
    return Case(reference, load(bundle.folder, threads=1), prompts, texts)


@torch.no_grad()
def make_varied(reference: GPT2LMHeadModel) -> None:
    """Make biases and norms random: as 0 and 1 they would hide an exchange of two of them.

    In a tied model the blocks must outweigh the embedding, or it repeats one token.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in reference.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    if reference.config.tie_word_embeddings:
        reference.transformer.wte.weight.mul_(0.1)
        reference.transformer.ln_f.weight.mul_(10)


def token_ids(model: Model, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    results = model.generate_ids(prompts, max_new_tokens=NEW_TOKENS, **options)
    return [list(result.token_ids) for result in results]


@torch.no_grad()
def reference_logits(case: Case, row: int) -> torch.Tensor:
    """Return PyTorch's logits for each new token of a text, (NEW_TOKENS, vocabulary)."""
    ids = case.prompts[row] + case.texts[row]
    logits: torch.Tensor = case.reference(torch.tensor([ids])).logits[0]
    return logits[len(case.prompts[row]) - 1 : -1]


def test_texts_vary_and_are_clearly_decided(case: Case) -> None:
    """The other tests rely on it: else they would compare little, or depend on rounding."""
    assert all(len(text) == NEW_TOKENS for text in case.texts)
    assert all(len(set(text)) > 12 for text in case.texts)
    assert len(set(map(tuple, case.texts))) == len(case.texts)
    for row in range(len(case.texts)):
        best, second = reference_logits(case, row).topk(2).values.T
        margin = float((best - second).min())
        assert margin > MARGIN


def test_batch_generates_what_transformers_does(case: Case) -> None:
    assert token_ids(case.model, case.prompts) == case.texts


def test_each_row_alone_generates_the_same(case: Case) -> None:
    assert [token_ids(case.model, [prompt])[0] for prompt in case.prompts] == case.texts


def test_rows_that_end_early(case: Case, greedy_ids: Callable[..., list[int]]) -> None:
    end = choose_end_token(case.texts)
    expected = [cut(text, end) for text in case.texts]
    lengths = [len(text) for text in expected]
    assert max(lengths) == NEW_TOKENS
    assert len(set(lengths)) >= 3

    first = lengths.index(min(lengths))
    alone = greedy_ids(case.reference, case.prompts[first], NEW_TOKENS, eos_token_id=end)
    assert alone == expected[first]
    results = case.model.generate_ids(case.prompts, max_new_tokens=NEW_TOKENS, eos_token_id=end)
    assert [list(result.token_ids) for result in results] == expected
    assert [result.finish_reason for result in results] == [
        "eos" if text[-1] == end else "length" for text in expected
    ]
    for prompt, text in zip(case.prompts, expected, strict=True):
        assert token_ids(case.model, [prompt], eos_token_id=end) == [text]


def test_logits_are_those_of_pytorch(case: Case) -> None:
    """Prefill of the ragged batch, then 63 steps, each fed the reference's token."""
    manifest = case.model.bundle.manifest
    graph = case.model.bundle.file(manifest.graphs["decoder"])
    rows, capacity = len(case.prompts), max(PROMPT_LENGTHS) + NEW_TOKENS
    session = open_session(graph, threads=1)
    decoder = OnnxDecoder(session, manifest, CpuMemory(), rows=rows, capacity=capacity)
    logits = [decoder.prefill(case.prompts).copy()]
    for tokens in np.array(case.texts).T[:-1].tolist():
        logits.append(decoder.decode(tokens).copy())
    expected = torch.stack([reference_logits(case, row) for row in range(rows)]).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(np.stack(logits, axis=1), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "change",
    [
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "gelu"},
        {"layer_norm_epsilon": 1e-3},
    ],
    ids=lambda change: next(iter(change)),
)
@torch.no_grad()
def test_settings_show_in_the_logits(
    seeded_gpt2: Callable[..., GPT2LMHeadModel], change: dict[str, Any]
) -> None:
    """Each setting changes logits by far more than the tolerance, so a lost one is noticed."""
    ids = torch.arange(1, 41)[None]
    plain, changed = (
        seeded_gpt2(attn_implementation="eager", **settings)(ids).logits
        for settings in ({}, change)
    )
    assert float((plain - changed).abs().max()) > 10 * TOLERANCE
