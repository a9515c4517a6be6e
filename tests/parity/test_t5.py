"""Differently shaped T5 models: the same tokens and logits as Transformers with eager attention.

As for GPT-2: each configuration is exported once, its weights are random but chosen so that texts
vary, and an end token is picked from the reference's own texts so that some rows end early and
others run on. Sources and texts reach beyond the relative distances that the models tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, load
from tests.support.texts import choose_end_token, cut

Ids = list[list[int]]

NEW_TOKENS = 64
TOLERANCE = 1e-4
MARGIN = 2 * TOLERANCE  # between the two best logits: a mismatch below is never a near tie
SOURCE_LENGTHS = (3, 40, 1, 17, 90)
START = 0

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "tied_relu_head_size_12": {},
    "untied_head_size_10": {"d_model": 32, "d_kv": 10, "num_heads": 3, "tied": False},
    "head_size_64": {"d_kv": 64, "num_heads": 2, "seed": 2},
    "gated_gelu_untied": {"feed_forward_proj": "gated-gelu", "tied": False, "d_kv": 8, "seed": 1},
    "gated_silu": {"feed_forward_proj": "gated-silu"},
    "gelu_head_size_20": {"feed_forward_proj": "gelu", "num_heads": 2, "d_kv": 20, "seed": 1},
    "more_decoder_layers": {"num_layers": 1, "num_decoder_layers": 3, "seed": 3},
    "fewer_decoder_layers": {"num_layers": 3, "num_decoder_layers": 1, "tied": False, "seed": 2},
    "32_buckets_to_40": {
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 40,
    },
    "4_buckets_to_3": {
        "relative_attention_num_buckets": 4,
        "relative_attention_max_distance": 3,
        "layer_norm_epsilon": 1e-3,
    },
    "7_buckets_to_11_one_layer": {
        "relative_attention_num_buckets": 7,
        "relative_attention_max_distance": 11,
        "num_layers": 1,
    },
    "byt5": {
        "vocab_size": 384,
        "d_kv": 16,
        "num_heads": 3,
        "num_layers": 3,
        "num_decoder_layers": 1,
        "feed_forward_proj": "gated-gelu",
        "tied": False,
        "seed": 1,
    },
    "mt5": {
        "model_type": "mt5",
        "vocab_size": 310,
        "feed_forward_proj": "gated-gelu",
        "tied": False,
    },
}


@dataclass(frozen=True)
class Case:
    """A configuration's model in both libraries, and Transformers' texts for the sources."""

    reference: T5ForConditionalGeneration
    model: Model
    sources: Ids
    texts: Ids  # NEW_TOKENS for each source, without an end token
    logits: torch.Tensor  # (sources, NEW_TOKENS, vocabulary): PyTorch's, of each source alone


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def case(
    request: pytest.FixtureRequest,
    seeded_t5: Callable[..., T5ForConditionalGeneration],
    save_t5: Callable[..., Path],
    t5_ids: Callable[..., Ids],
    t5_logits: Callable[..., torch.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    config = dict(CONFIGURATIONS[request.param])
    tied = config.pop("tied", True)
    reference = seeded_t5(**config, tie_word_embeddings=tied)
    bundle = export_checkpoint(save_t5(reference), tmp_path_factory.mktemp("bundle") / "t5")
    rng = np.random.default_rng(0)
    sources = [rng.integers(reference.config.vocab_size, size=n).tolist() for n in SOURCE_LENGTHS]
    outputs = t5_ids(reference, sources, max_new_tokens=NEW_TOKENS)
    logits = [
        t5_logits(reference, source, output[:-1])
        for source, output in zip(sources, outputs, strict=True)
    ]
    texts = [output[1:] for output in outputs]
    return Case(reference, load(bundle.folder, threads=1), sources, texts, torch.stack(logits))


def token_ids(model: Model, sources: Ids, **options: Any) -> Ids:
    results = model.generate_ids(sources, max_new_tokens=NEW_TOKENS, **options)
    return [list(result.token_ids) for result in results]


def test_texts_vary_and_are_clearly_decided(case: Case) -> None:
    """The other tests rely on it: else they would compare little, or depend on rounding.

    Transformers made the texts in a batch: each source alone, read anew, decides on the same.
    """
    assert all(len(text) == NEW_TOKENS for text in case.texts)
    assert all(len(set(text)) > 8 for text in case.texts)
    assert len(set(map(tuple, case.texts))) == len(case.texts)
    assert case.logits.argmax(-1).tolist() == case.texts
    best, second = case.logits.topk(2).values.unbind(-1)
    assert float((best - second).min()) > MARGIN


def test_batch_generates_what_transformers_does(case: Case) -> None:
    assert token_ids(case.model, case.sources) == case.texts


def test_each_source_alone_generates_the_same(case: Case) -> None:
    assert [token_ids(case.model, [source])[0] for source in case.sources] == case.texts


def test_rows_that_end_early(case: Case, t5_ids: Callable[..., Ids]) -> None:
    end = choose_end_token(case.texts)
    expected = [cut(text, end) for text in case.texts]
    lengths = [len(text) for text in expected]
    assert max(lengths) == NEW_TOKENS
    assert len(set(lengths)) >= 3

    first = case.sources[lengths.index(min(lengths))]
    (alone,) = t5_ids(case.reference, [first], max_new_tokens=NEW_TOKENS, eos_token_id=end)
    assert alone[1:] == min(expected, key=len)
    results = case.model.generate_ids(case.sources, max_new_tokens=NEW_TOKENS, eos_token_id=end)
    assert [list(result.token_ids) for result in results] == expected
    assert [result.finish_reason for result in results] == [
        "eos" if text[-1] == end else "length" for text in expected
    ]
    for source, text in zip(case.sources, expected, strict=True):
        assert token_ids(case.model, [source], eos_token_id=end) == [text]


def model_logits(case: Case, starts: Ids, steps: int) -> np.ndarray[Any, Any]:
    """Return logits after ``starts`` and each further token, (sources, steps + 1, vocabulary)."""
    decoder = case.model.new_decoder(case.sources, NEW_TOKENS)
    logits = [decoder.prefill(starts).copy()]
    for step in range(steps):
        at = [len(start) - 1 + step for start in starts]  # the start token is not in the texts
        tokens = [text[i] for text, i in zip(case.texts, at, strict=True)]
        logits.append(decoder.decode(tokens).copy())
    return np.stack(logits, axis=1)


def test_logits_are_those_of_pytorch(case: Case) -> None:
    """Prefill of the start token, then 63 steps, each fed the reference's token."""
    logits = model_logits(case, [[START]] * len(case.sources), NEW_TOKENS - 1)
    assert float(case.logits.abs().max()) > 1
    np.testing.assert_allclose(logits, case.logits.numpy(), rtol=0, atol=TOLERANCE)


def test_logits_after_starts_of_different_lengths(case: Case) -> None:
    """Prefill of a ragged batch, then four steps."""
    lengths, steps = (1, 9, 60, 24, 42), 4
    starts = [[START, *text[: n - 1]] for text, n in zip(case.texts, lengths, strict=True)]
    logits = model_logits(case, starts, steps)
    expected = [case.logits[row, n - 1 : n + steps] for row, n in enumerate(lengths)]
    np.testing.assert_allclose(logits, torch.stack(expected), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("relative_attention_max_distance", 40),
        ("relative_attention_max_distance", 12),
        ("relative_attention_num_buckets", 6),
        ("variance_epsilon", 1e-3),
        ("act", torch.nn.GELU()),
    ],
    ids=str,
)
def test_settings_show_in_the_logits(
    stack: str,
    name: str,
    value: Any,
    seeded_t5: Callable[..., T5ForConditionalGeneration],
    t5_logits: Callable[..., torch.Tensor],
) -> None:
    """Each setting changes logits by far more than the tolerance, so a lost one is noticed."""
    reference = seeded_t5()
    source, text = range(10, 100), range(20, 84)
    plain = t5_logits(reference, source, text)
    holders = [m for m in getattr(reference, stack).modules() if hasattr(m, name)]
    assert holders
    for module in holders:
        setattr(module, name, value)
    changed = t5_logits(reference, source, text)
    assert float((plain - changed).abs().max()) > 10 * TOLERANCE


def test_scale_of_tied_embeddings_shows_in_the_logits(
    seeded_t5: Callable[..., T5ForConditionalGeneration], t5_logits: Callable[..., torch.Tensor]
) -> None:
    reference = seeded_t5()
    plain = t5_logits(reference, [5, 6, 7], [START, 8])
    reference.config.tie_word_embeddings = False
    changed = t5_logits(reference, [5, 6, 7], [START, 8])
    assert float((plain - changed).abs().max()) > 10 * TOLERANCE
