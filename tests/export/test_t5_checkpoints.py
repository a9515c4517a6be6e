"""T5 checkpoints: layouts that export, verification, and checkpoints that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration, T5Model

from edgeseq.export import CheckpointError, export_checkpoint
from edgeseq.export.families import t5
from edgeseq.runtime import Model, OptionError, load
from tests.support.errors import refusal
from tests.support.files import assert_nothing_written, edit_json

T5 = T5ForConditionalGeneration
Weights = dict[str, torch.Tensor]

SOURCES = [[5, 6, 7], [100], list(range(10, 50))]


@pytest.fixture
def folder(t5_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be changed."""
    return Path(shutil.copytree(t5_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundles" / "t5"


# What exports


def name_old_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", architectures=["T5WithLMHeadModel"])


def save_bare_model(folder: Path) -> None:
    """Save without a head; a tied model uses its embedding."""
    T5Model.from_pretrained(folder).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert content["architectures"] == ["T5Model"]


def save_bin(folder: Path) -> None:
    T5.from_pretrained(folder).save_pretrained(folder, safe_serialization=False)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("change", [name_old_architecture, save_bare_model, save_bin])
def test_layout_exports_the_same_model(
    change: Callable[[Path], None], folder: Path, out: Path, t5_model: Model
) -> None:
    change(folder)
    exported = export_checkpoint(folder, out)
    weights = exported.manifest.files["weights.bin"]
    assert weights == t5_model.bundle.manifest.files["weights.bin"]
    results = load(out, threads=1).generate_ids(SOURCES, decoder_start_token_id=0)
    expected = t5_model.generate_ids(SOURCES)
    assert [r.token_ids for r in results] == [r.token_ids for r in expected]


def test_model_without_a_start_token_exports(
    seeded_t5: Callable[..., T5], save_t5: Callable[..., Path], out: Path, t5_model: Model
) -> None:
    folder = save_t5(seeded_t5(decoder_start_token_id=None))
    bundle = export_checkpoint(folder, out)
    assert "decoder_start_token_id" not in bundle.manifest.generation
    model = load(out, threads=1)
    with pytest.raises(OptionError, match="decoder_start_token_id"):
        model.generate_ids(SOURCES)
    results = model.generate_ids(SOURCES, decoder_start_token_id=0)
    expected = t5_model.generate_ids(SOURCES)
    assert [r.token_ids for r in results] == [r.token_ids for r in expected]


def test_exports_are_reproducible(folder: Path, out: Path, t5_model: Model) -> None:
    assert export_checkpoint(folder, out).manifest.files == t5_model.bundle.manifest.files


# Verification


def test_largest_difference_is_kept(t5_model: Model) -> None:
    verification = t5_model.bundle.manifest.verification
    assert verification is not None
    assert verification.positions > 20
    assert 0 < verification.max_logit_difference < 1e-4
    assert 1 < verification.max_logit < 100


def swapped(right: Callable[..., Weights], *names: str) -> Callable[..., Weights]:
    """Return ``right`` with two of its weights exchanged."""

    def weights(*args: Any) -> Weights:
        made = right(*args)
        return made | dict(zip(names, [made[name] for name in reversed(names)], strict=True))

    return weights


def one_direction(attention: Any, *, bidirectional: bool) -> torch.Tensor:
    """Return an encoder's bias table mirrored, as if it were a decoder's."""
    table = BIAS_TABLE(attention, bidirectional=False)
    return torch.cat([table.flip(1), table[:, 1:]], dim=1) if bidirectional else table


ENCODER, DECODER, BIAS_TABLE = t5._encoder_weights, t5._decoder_weights, t5._bias_table
CROSS = "decoder.0.cross.value", "decoder.1.cross.value"
MISTAKES: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "layers of the encoder": (
        t5,
        "_encoder_weights",
        swapped(ENCODER, "encoder.0.ff.wo", "encoder.1.ff.wo"),
    ),
    "values for the decoder": (t5, "_encoder_weights", swapped(ENCODER, *CROSS)),
    "norms of the encoder": (
        t5,
        "_encoder_weights",
        swapped(ENCODER, "encoder.norm", "encoder.0.ff.norm"),
    ),
    "positions of the encoder": (t5, "_bias_table", one_direction),
    "queries of the decoder": (
        t5,
        "_decoder_weights",
        swapped(DECODER, "decoder.0.cross.query", "decoder.1.cross.query"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_graph_is_refused(
    name: str, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*MISTAKES[name])
    refusal(CheckpointError, lambda: export_checkpoint(folder, out), match="differ from PyTorch")
    assert_nothing_written(out)


# What is refused


BUCKETS, DISTANCE = "relative_attention_num_buckets", "relative_attention_max_distance"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "encoder alone": ({"architectures": ["T5EncoderModel"]}, r"'T5EncoderModel'.*supported"),
    "classifier": (
        {"architectures": ["T5ForSequenceClassification"]},
        r"'T5ForSequenceClassification'",
    ),
    "two buckets": ({BUCKETS: 2}, rf"{BUCKETS} 2"),
    "no buckets": ({BUCKETS: 0}, BUCKETS),
    "distance of half the buckets": ({DISTANCE: 4}, rf"{DISTANCE} 4"),
    "distance below half the buckets": ({DISTANCE: 1}, rf"{DISTANCE} 1"),
    "distance is no integer": ({DISTANCE: 20.5}, DISTANCE),
    "unknown activation": ({"dense_act_fn": "gelus"}, r"activation.*'gelus'"),
    "unknown gated activation": (
        {"feed_forward_proj": "gated-gelus", "dense_act_fn": None},
        r"activation.*'gelus'",
    ),
    "activation of two gates": ({"feed_forward_proj": "gated-gated-gelu"}, r"feed_forward_proj"),
    "umt5": ({"model_type": "umt5"}, r"'umt5' is not supported.*t5"),
    "longt5": ({"model_type": "longt5"}, r"'longt5' is not supported.*t5"),
    "switch transformers": ({"model_type": "switch_transformers"}, r"is not supported.*t5"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, r"quantized"),
    "no heads": ({"num_heads": 0}, r"num_heads"),
    "a size is text": ({"d_kv": "12"}, r"d_kv"),
    "epsilon is text": ({"layer_norm_epsilon": "x"}, r"layer_norm_epsilon"),
    "a layer too many": ({"num_decoder_layers": 3}, r"lacks the weight decoder\.block\.2"),
    "sizes do not fit": ({"d_ff": 65}, r"DenseReluDense"),
    "untied without a head": ({"tie_word_embeddings": False}, r"lacks the weight lm_head\.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str, folder: Path, out: Path) -> None:
    changes, pattern = REFUSED[name]
    edit_json(folder / "config.json", **changes)
    refusal(CheckpointError, lambda: export_checkpoint(folder, out), match=pattern)
    assert_nothing_written(out)


@pytest.mark.parametrize(
    "name", ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"]
)
def test_weight_that_is_not_a_number_is_refused(
    name: str, seeded_t5: Callable[..., T5], save_t5: Callable[..., Path], out: Path
) -> None:
    model = seeded_t5()
    with torch.no_grad():
        dict(model.named_parameters())[name].fill_(torch.nan)
    refusal(CheckpointError, lambda: export_checkpoint(save_t5(model), out), match="not finite")
    assert_nothing_written(out)


def test_a_model_that_magnifies_rounding_is_no_wrong_graph(
    save_t5: Callable[..., Path], tmp_path: Path
) -> None:
    """PyTorch's float32 logits are as inexact as the difference."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=384,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        initializer_factor=3.0,
        decoder_start_token_id=0,
    )
    folder = save_t5(T5ForConditionalGeneration(config).eval())
    verification = export_checkpoint(folder, tmp_path / "t5").manifest.verification
    assert verification is not None
    assert verification.max_logit_difference > 1e-4 * verification.max_logit


def test_a_start_token_outside_the_vocabulary_is_refused(folder: Path, out: Path) -> None:
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "decoder_start_token_id": 5000}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"decoder_start_token_id is 5000"):
        export_checkpoint(folder, out)


def test_first_of_several_start_tokens_counts(folder: Path, out: Path, t5_model: Model) -> None:
    """As in Transformers, where the list has one start token for each text of a batch."""
    edit_json(folder / "generation_config.json", decoder_start_token_id=[0], pad_token_id=-1)
    bundle = export_checkpoint(folder, out)
    assert bundle.manifest.generation == {"decoder_start_token_id": 0}
    ids = load(bundle.folder).generate_ids([[5, 6]], max_new_tokens=8)[0].token_ids
    assert ids == t5_model.generate_ids([[5, 6]], max_new_tokens=8)[0].token_ids
