"""GPT-2 checkpoints: layouts that export to the same model, and checkpoints that are refused."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2DoubleHeadsModel, GPT2LMHeadModel, GPT2Tokenizer

from edgeseq.export import CheckpointError, export_checkpoint
from edgeseq.export.blocks.layers import Layers
from edgeseq.export.families import gpt2
from edgeseq.runtime import BundleError, Model, PromptError, load
from edgeseq.runtime.bundle.reading import Bundle
from tests.support.commands import Captured, failure
from tests.support.errors import assert_one_sentence, refusal
from tests.support.files import assert_nothing_written, contents, edit_json

Weights = dict[str, torch.Tensor]
Change = Callable[[Path], None]

PROMPTS = [[5, 6, 7], [100], [1, 2, 3, 4, 5, 6, 7, 8]]
TEXTS = ["Once upon a time", " a fox; he said: “home!”", "ÄÖÜ 🦊\n\n", "a<|endoftext|>b"]
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundles" / "gpt2"


def ids_of(folder: Path) -> list[tuple[int, ...]]:
    results = load(folder, threads=1).generate_ids(PROMPTS, max_new_tokens=16)
    return [result.token_ids for result in results]


def weights_hash(bundle: Bundle) -> str:
    return bundle.manifest.files["weights.bin"].sha256


def edit_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(load_file(folder / SAFETENSORS))
    save_file(weights, folder / SAFETENSORS, metadata={"format": "pt"})


# Layouts of the weights


def shard_safetensors(folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    (folder / SAFETENSORS).unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def save_bin(folder: Path, **options: Any) -> None:
    torch.save(load_file(folder / SAFETENSORS), folder / BIN, **options)
    (folder / SAFETENSORS).unlink()


def save_old_bin(folder: Path) -> None:
    """Save in the format before torch 1.6, which GPT-2 checkpoints of 2019 and 2020 have."""
    save_bin(folder, _use_new_zipfile_serialization=False)


def shard_bin(folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    (folder / SAFETENSORS).unlink()
    model.save_pretrained(folder, max_shard_size="100KB", safe_serialization=False)
    assert len(list(folder.glob("pytorch_model-*.bin"))) > 2


def drop_prefix(folder: Path) -> None:
    edit_weights(folder, lambda w: {k.removeprefix("transformer."): v for k, v in w.items()})


def add_old_buffers(folder: Path) -> None:
    """Add the causal mask and its value, which Transformers before 4.30 saved with the weights."""
    mask = torch.ones(1, 1, 96, 96).tril()
    buffers = {
        f"transformer.h.{layer}.attn.{name}": value.clone()
        for layer in range(2)
        for name, value in {"bias": mask, "masked_bias": torch.tensor(-1e4)}.items()
    }
    edit_weights(folder, lambda weights: weights | buffers)


def drop_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()


def drop_what_old_configurations_lack(folder: Path) -> None:
    drop_generation_config(folder)
    config = dict.fromkeys(["architectures", "dtype", "transformers_version", "use_cache"])
    edit_json(folder / "config.json", **config, n_ctx=96)


def add_weights_of_other_frameworks(folder: Path) -> None:
    """Add files that must not be read, among them a pickle beside safetensors."""
    for name in (BIN, "tf_model.h5", "flax_model.msgpack", "rust_model.ot"):
        (folder / name).write_bytes(b"not to be read")


LAYOUTS: list[Change] = [
    shard_safetensors,
    save_bin,
    save_old_bin,
    shard_bin,
    add_old_buffers,
    drop_generation_config,
    drop_what_old_configurations_lack,
    add_weights_of_other_frameworks,
]


@pytest.mark.parametrize("change", LAYOUTS)
def test_layout_exports_the_same_model(
    change: Change, folder: Path, out: Path, model: Model
) -> None:
    change(folder)
    bundle = export_checkpoint(folder, out)
    assert weights_hash(bundle) == weights_hash(model.bundle)
    assert bundle.manifest.generation == model.bundle.manifest.generation
    assert ids_of(out) == [r.token_ids for r in model.generate_ids(PROMPTS, max_new_tokens=16)]


def shard_prefixed(prefix: str, folder: Path) -> None:
    """Put a prefix in front of the names in all shards and in their index."""
    shard_safetensors(folder)
    for shard in folder.glob("model-*.safetensors"):
        save_file(prefixed(prefix, load_file(shard)), shard, metadata={"format": "pt"})
    path = folder / f"{SAFETENSORS}.index.json"
    edit_json(path, weight_map=prefixed(prefix, json.loads(path.read_text())["weight_map"]))


def in_one_file(prefix: str, folder: Path) -> None:
    edit_weights(folder, lambda weights: prefixed(prefix, weights))


def in_one_bin(prefix: str, folder: Path) -> None:
    in_one_file(prefix, folder)
    save_bin(folder)


def without_own_prefix(prefix: str, folder: Path) -> None:
    """Save a wrapped GPT2Model, whose names do not begin with `transformer.`."""
    drop_prefix(folder)
    in_one_file(prefix, folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("change", [in_one_file, in_one_bin, shard_prefixed])
def test_prefix_of_a_wrapper_is_removed(
    change: Callable[[str, Path], None], prefix: str, folder: Path, out: Path, model: Model
) -> None:
    edit_json(folder / "generation_config.json", max_new_tokens=16)
    change(prefix, folder)
    told: list[str] = []
    bundle = export_checkpoint(folder, out, progress=told.append)
    assert weights_hash(bundle) == weights_hash(model.bundle)
    assert bundle.manifest.generation["max_new_tokens"] == 16
    assert [line for line in told if repr(prefix) in line]


def test_prefix_of_a_wrapped_bare_model_is_removed(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint(tie_word_embeddings=True)
    plain = export_checkpoint(folder, tmp_path / "plain")
    without_own_prefix("module.", folder)
    assert weights_hash(export_checkpoint(folder, tmp_path / "out")) == weights_hash(plain)


def add_tied_lm_head(folder: Path) -> None:
    """Add the embedding a second time, under the name of the lm_head."""
    edit_weights(folder, lambda w: w | {"lm_head.weight": w["transformer.wte.weight"].clone()})


def drop_prefix_and_add_old_buffers(folder: Path) -> None:
    """Use the names of `gpt2` on the Hub."""
    add_old_buffers(folder)
    drop_prefix(folder)


def drop_prefix_and_architecture(folder: Path) -> None:
    """Save as Transformers' GPT2Model does."""
    drop_prefix(folder)
    edit_json(folder / "config.json", architectures=["GPT2Model"])


@pytest.mark.parametrize(
    "change",
    [
        add_tied_lm_head,
        drop_prefix,
        drop_prefix_and_add_old_buffers,
        drop_prefix_and_architecture,
        shard_bin,
    ],
)
def test_layout_of_a_tied_model_exports_the_same_model(
    change: Change, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint(tie_word_embeddings=True)
    plain = export_checkpoint(folder, tmp_path / "plain")
    change(folder)
    changed = export_checkpoint(folder, tmp_path / "changed")
    assert weights_hash(changed) == weights_hash(plain)
    assert ids_of(changed.folder) == ids_of(plain.folder)


def test_second_head_is_left_out(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(tie_word_embeddings=True)
    plain = export_checkpoint(folder, tmp_path / "plain")
    double = GPT2DoubleHeadsModel.from_pretrained(folder, num_labels=1)
    double.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2DoubleHeadsModel"]
    changed = export_checkpoint(folder, tmp_path / "changed")
    assert weights_hash(changed) == weights_hash(plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoint(
    dtype: torch.dtype,
    folder: Path,
    out: Path,
    checkpoint: Path,
    greedy_ids: Callable[..., list[int]],
) -> None:
    """The bundle is the float32 model with the rounded weights."""
    GPT2LMHeadModel.from_pretrained(checkpoint, dtype=dtype).save_pretrained(folder)
    assert load_file(folder / SAFETENSORS)["transformer.wpe.weight"].dtype == dtype
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix(
        "torch."
    )
    export_checkpoint(folder, out)
    reference = GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    expected = [tuple(greedy_ids(reference, prompt, 16)) for prompt in PROMPTS]
    assert ids_of(out) == expected


@pytest.mark.parametrize("n_positions", [1, 2, 8])
def test_model_of_few_positions(
    n_positions: int, make_checkpoint: Callable[..., Path], out: Path
) -> None:
    export_checkpoint(make_checkpoint(n_positions=n_positions), out)
    (result,) = load(out).generate_ids([[5]], max_new_tokens=n_positions, eos_token_id=None)
    assert result.generated_tokens == n_positions


def test_names_may_have_spaces_and_other_letters(folder: Path, tmp_path: Path) -> None:
    checkpoint = folder.rename(tmp_path / "mon modèle 🦊")
    bundle = export_checkpoint(str(checkpoint), tmp_path / "le bündel")
    assert bundle.manifest.source.id == "mon modèle 🦊"
    assert bundle.manifest.source.revision is None
    assert load(tmp_path / "le bündel", verify=True).generate("fox", max_new_tokens=2)


# Tokenizers


def keep_tokenizer_json(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()


def keep_slow_files(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()


@pytest.mark.parametrize("change", [keep_tokenizer_json, keep_slow_files])
def test_tokenizer_files(change: Change, checkpoint: Path, folder: Path, out: Path) -> None:
    """From any set of files, the bundle's tokenizer does what Transformers' slow one does."""
    slow = GPT2Tokenizer(str(checkpoint / "vocab.json"), str(checkpoint / "merges.txt"))
    change(folder)
    export_checkpoint(folder, out)
    tokenizer = load(out).tokenizer
    for text in TEXTS:
        ids = slow(text)["input_ids"]
        assert tokenizer.encode(text) == ids
        decoded = slow.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids) == decoded


@pytest.mark.parametrize("clean_up", [True, False])
def test_clean_up_setting_is_carried(clean_up: bool, folder: Path, out: Path) -> None:
    edit_json(folder / "tokenizer_config.json", clean_up_tokenization_spaces=clean_up)
    bundle = export_checkpoint(folder, out)
    assert bundle.manifest.tokenizer.clean_up_tokenization_spaces is clean_up
    tokenizer = load(out).tokenizer
    cleaned = tokenizer.decode(tokenizer.encode("a fox , home ."))
    assert cleaned == ("a fox, home." if clean_up else "a fox , home .")


# Generation defaults


def test_generation_defaults_are_carried_and_obeyed(folder: Path, out: Path, model: Model) -> None:
    """All of generation_config.json, options that this runtime does not know included."""
    (text,) = model.generate_ids([PROMPTS[0]], max_new_tokens=30, eos_token_id=None)
    end = text.token_ids[7]
    settings = {"eos_token_id": [310, end], "max_new_tokens": 30, "typical_p": 0.9}
    edit_json(folder / "generation_config.json", **settings)
    bundle = export_checkpoint(folder, out)
    assert bundle.manifest.generation == {"bos_token_id": 0, **settings}
    (result,) = load(out).generate_ids([PROMPTS[0]])
    assert result.token_ids == text.token_ids[: text.token_ids.index(end) + 1]
    assert result.finish_reason == "eos"


def test_special_tokens_come_from_the_configuration_without_a_generation_config(
    folder: Path, out: Path
) -> None:
    drop_generation_config(folder)
    edit_json(folder / "config.json", bos_token_id=3, eos_token_id=4)
    bundle = export_checkpoint(folder, out)
    assert bundle.manifest.generation == {"bos_token_id": 3, "eos_token_id": 4}


def test_no_limit_on_the_candidates_is_carried(folder: Path, out: Path) -> None:
    """Transformers writes top_k without a limit as null, which is not the default."""
    settings = '{"do_sample": true, "top_k": null}'
    (folder / "generation_config.json").write_text(settings, encoding="utf-8")
    bundle = export_checkpoint(folder, out)
    assert bundle.manifest.generation["top_k"] == 0


def test_defaults_that_stay_unused_are_named(folder: Path, out: Path) -> None:
    edit_json(folder / "generation_config.json", num_beams=4, guidance_scale=1.5)
    told: list[str] = []
    bundle = export_checkpoint(folder, out, progress=told.append)
    assert any("guidance_scale" in line for line in told)
    assert not any("num_beams" in line for line in told)
    assert bundle.manifest.generation["num_beams"] == 4


def defaults_of(folder: Path, out: Path, **settings: Any) -> tuple[dict[str, Any], list[str]]:
    """Export with other generation settings; return the bundle's defaults and the lines."""
    edit_json(folder / "generation_config.json", **settings)
    told: list[str] = []
    bundle = export_checkpoint(folder, out, progress=told.append)
    return dict(bundle.manifest.generation), told


def test_ids_outside_the_vocabulary_are_left_out(folder: Path, out: Path) -> None:
    defaults, told = defaults_of(
        folder,
        out,
        suppress_tokens=[50256, 7],
        begin_suppress_tokens=[50256],
        bad_words_ids=[[50256], [5, 6]],
        forced_bos_token_id=50256,
        forced_eos_token_id=50257,
        sequence_bias=[[[50256], 1.0], [[7, 8], 2.0]],
        bos_token_id=50256,
    )
    assert defaults == {
        "eos_token_id": 0,
        "suppress_tokens": [7],
        "bad_words_ids": [[5, 6]],
        "sequence_bias": [[[7, 8], 2.0]],
    }
    [line] = [line for line in told if "50256" in line]
    for name in ("suppress_tokens", "bad_words_ids", "forced_eos_token_id", "bos_token_id"):
        assert name in line
    refusal(PromptError, lambda: load(out).generate(""), match="bos_token_id")


@pytest.mark.parametrize("name", ["suppress_tokens", "begin_suppress_tokens"])
def test_suppressed_ids_outside_the_vocabulary_have_no_effect(
    name: str, folder: Path, out: Path, greedy_ids: Callable[..., list[int]]
) -> None:
    defaults_of(folder, out, **{name: [50256]})
    reference = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    model = load(out, threads=1)
    ids = model.tokenizer.encode("The")
    [result] = model.generate("The", max_new_tokens=12)
    assert list(result.token_ids) == greedy_ids(reference, ids, 12)


def test_settings_that_mean_none(folder: Path, out: Path) -> None:
    """Negative special tokens and empty lists mean None, as in Transformers."""
    settings = dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id"], -1)
    lists: dict[str, Any] = {"suppress_tokens": [], "begin_suppress_tokens": []}
    defaults, told = defaults_of(folder, out, **settings, **lists)
    assert defaults == {}
    assert not any("ignoring" in line for line in told)


def test_model_type_follows_from_the_architecture(folder: Path, out: Path, model: Model) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["model_type"]
    path.write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"):
        (folder / name).unlink()
    bundle = export_checkpoint(folder, out)
    assert bundle.manifest.architecture == "gpt2"
    assert weights_hash(bundle) == weights_hash(model.bundle)


@pytest.mark.parametrize("change", [lambda folder: None, save_bin])
def test_stored_head_of_a_tied_model_is_reported(
    change: Change, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Transformers ties the head all the same."""
    folder = make_checkpoint(tie_word_embeddings=True)
    plain = export_checkpoint(folder, tmp_path / "plain")
    add_tied_lm_head(folder)
    told: list[str] = []
    export_checkpoint(folder, tmp_path / "equal", progress=told.append)
    edit_weights(folder, lambda w: w | {"lm_head.weight": w["lm_head.weight"] + 1})
    change(folder)
    other = export_checkpoint(folder, tmp_path / "other", progress=told.append)
    assert sum("stored lm_head.weight" in line for line in told) == 1
    assert ids_of(other.folder) == ids_of(plain.folder)


def test_home_folder_is_expanded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    bundle = export_checkpoint("~/checkpoint", "~/bundle")
    assert bundle.folder == tmp_path / "bundle"
    assert load("~/bundle").bundle.manifest == bundle.manifest


def test_file_instead_of_its_folder(folder: Path, out: Path) -> None:
    file = folder / SAFETENSORS
    message = refusal(CheckpointError, lambda: export_checkpoint(file, out), match="is a file")
    assert f"pass its folder, {folder}" in message


# What is refused


def set_config(**changes: Any) -> Change:
    return lambda folder: edit_json(folder / "config.json", **changes)


def write(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def remove(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def cut_off(name: str, keep: float) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return change


def after(first: Change, second: Change) -> Change:
    def change(folder: Path) -> None:
        first(folder)
        second(folder)

    return change


def weights_with(change: Callable[[Weights], Any]) -> Change:
    """Return a change of the checkpoint; ``change`` alters the weights in place."""

    def altered(weights: Weights) -> Weights:
        change(weights)
        return weights

    return lambda folder: edit_weights(folder, altered)


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: weight for name, weight in weights.items()}


def without(weights: Weights, name: str) -> Weights:
    return {known: weight for known, weight in weights.items() if known != name}


def two_models(weights: Weights) -> Weights:
    copies = {name: weight.clone() for name, weight in weights.items()}
    return prefixed("teacher.", weights) | prefixed("student.", copies)


def remove_a_shard(folder: Path) -> None:
    shard_safetensors(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def point_a_shard_at(name: object) -> Change:
    def change(folder: Path) -> None:
        index = folder / f"{SAFETENSORS}.index.json"
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        edit_json(index, weight_map=listed | {QKV: name})

    return change


ADAPTER = b'{"peft_type": "LORA", "base_model_name_or_path": "the/base"}'
QKV = "transformer.h.1.attn.c_attn.weight"
REFUSED: dict[str, tuple[Change, str]] = {
    "bert": (set_config(model_type="bert"), r"'bert'.*supported: gpt2, gpt_neo, .*pegasus"),
    "llama": (set_config(model_type="llama"), r"'llama'.*supported: gpt2"),
    "no model type": (set_config(model_type=None, architectures=None), r"supported: gpt2"),
    "two wrapped models": (
        lambda folder: edit_weights(folder, two_models),
        r"2 models, whose names begin with 'student\.' and 'teacher\.'",
    ),
    "wrapped and too few": (
        lambda folder: edit_weights(folder, lambda w: prefixed("module.", without(w, QKV))),
        rf"lacks the weight {QKV}:",
    ),
    "wrapped and of another shape": (
        after(
            set_config(vocab_size=300),
            lambda folder: edit_weights(folder, functools.partial(prefixed, "module.")),
        ),
        r"weight.*\(320, 48\).*\(300, 48\)",
    ),
    "only TensorFlow": (
        after(remove(SAFETENSORS), write("tf_model.h5", b"")),
        r"tf_model\.h5 of TensorFlow",
    ),
    "only Flax": (
        after(remove(SAFETENSORS), write("flax_model.msgpack", b"")),
        r"flax_model\.msgpack of Flax",
    ),
    "an adapter and no model": (
        after(remove("config.json"), write("adapter_config.json", ADAPTER)),
        r"adapter.*'the/base'.*merge_and_unload",
    ),
    "classifier": (
        set_config(architectures=["GPT2ForSequenceClassification"]),
        r"'GPT2ForSequenceClassification'.*GPT2LMHeadModel",
    ),
    "cross attention": (set_config(add_cross_attention=True), r"add_cross_attention"),
    "attention from the Hub": (
        set_config(_attn_implementation_internal="someone/kernel"),
        r"code on the Hugging Face Hub.*'someone/kernel'",
    ),
    "attention from the Hub, for a part": (
        set_config(decoder={"attn_implementation": {"": "someone/kernel@main"}}),
        r"code on the Hugging Face Hub.*'someone/kernel@main'",
    ),
    "quantized": (set_config(quantization_config={"quant_method": "gptq"}), r"quantized"),
    "activation is a list": (set_config(activation_function=["gelu"]), r"activation"),
    "epsilon is text": (set_config(layer_norm_epsilon="x"), r"layer_norm_epsilon"),
    "architecture is text": (set_config(architectures="BertModel"), r"'BertModel'"),
    "tokenizer of nothing": (write("tokenizer.json", b"{}"), r"tokenizer"),
    "impossible defaults": (
        lambda folder: edit_json(folder / "generation_config.json", no_repeat_ngram_size=-1),
        r"generation_config\.json.*no_repeat_ngram_size",
    ),
    "pruned heads": (set_config(pruned_heads={"0": [1]}), r"pruned_heads"),
    "no config": (remove("config.json"), r"config\.json"),
    "broken config": (write("config.json", b'{"model_type": "gpt2"'), r"config\.json.*JSON"),
    "config is a list": (write("config.json", b"[1]"), r"config\.json.*JSON object"),
    "config is not text": (write("config.json", b"\xff\xfe\x00"), r"config\.json"),
    "unknown activation": (set_config(activation_function="gelus"), r"activation.*'gelus'"),
    "heads do not fit": (set_config(n_head=5), r"checkpoint"),
    "sizes do not fit": (set_config(vocab_size=300), r"weight.*\(320, 48\).*\(300, 48\)"),
    "a size is no number": (set_config(n_embd="48"), r"n_embd"),
    "no heads": (set_config(n_head=0), r"n_head"),
    "no layers": (set_config(n_layer=0), r"n_layer"),
    "one layer too many": (
        set_config(n_layer=3),
        r"lacks the weight transformer.h.2.* and 11 more",
    ),
    "no weights": (remove(SAFETENSORS), r"safetensors"),
    "empty safetensors": (write(SAFETENSORS, b""), r"checkpoint"),
    "half of safetensors": (cut_off(SAFETENSORS, 0.5), r"checkpoint"),
    "nearly all of safetensors": (cut_off(SAFETENSORS, 0.999), r"checkpoint"),
    "safetensors is a page": (write(SAFETENSORS, b"<html>not found</html>"), r"checkpoint"),
    "half of bin": (after(save_bin, cut_off(BIN, 0.5)), r"checkpoint"),
    "half of old bin": (after(save_old_bin, cut_off(BIN, 0.5)), r"checkpoint"),
    "empty bin": (after(save_bin, write(BIN, b"")), r"checkpoint"),
    "bin is a page": (after(save_bin, write(BIN, b"<html></html>")), r"checkpoint"),
    **{
        f"shard named {name!r}": (
            after(shard_safetensors, point_a_shard_at(name)),
            r"unsafe file name",
        )
        for name in ("../weights.safetensors", "/weights.safetensors", "a\\b", "C:x", "..", 3)
    },
    "missing shard": (remove_a_shard, r"model-0"),
    "missing weight": (weights_with(lambda w: w.pop(QKV)), QKV.replace(".", r"\.")),
    "missing lm_head": (weights_with(lambda w: w.pop("lm_head.weight")), r"lm_head\.weight"),
    "missing lm_head and no prefix": (
        after(weights_with(lambda w: w.pop("lm_head.weight")), drop_prefix),
        r"lm_head\.weight",
    ),
    "weight of another shape": (
        weights_with(lambda w: w.update({QKV: torch.zeros(48, 12)})),
        QKV.replace(".", r"\."),
    ),
    "weight that is not a number": (
        weights_with(lambda w: w[QKV].fill_(torch.nan)),
        r"not finite",
    ),
    "no tokenizer": (
        after(keep_tokenizer_json, remove("tokenizer.json")),
        r"tokenizer\.json",
    ),
    "broken tokenizer": (
        after(keep_tokenizer_json, write("tokenizer.json", b'{"version": "1.0"')),
        r"tokenizer",
    ),
    "half of the slow files": (after(keep_slow_files, remove("merges.txt")), r"tokenizer\.json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str, folder: Path, out: Path) -> None:
    change, pattern = REFUSED[name]
    change(folder)
    refusal(CheckpointError, lambda: export_checkpoint(folder, out), match=pattern)
    assert_nothing_written(out)


def test_code_in_weights_is_not_run(folder: Path, out: Path) -> None:
    """An old checkpoint is a pickle, which can call any function."""
    (folder / SAFETENSORS).unlink()
    marker = folder / "executed"
    (folder / BIN).write_bytes(f"cos\nmkdir\n(V{marker}\ntR.".encode())
    refusal(CheckpointError, lambda: export_checkpoint(folder, out))
    assert not marker.exists()
    assert_nothing_written(out)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_not_run(file: str, folder: Path, out: Path) -> None:
    """Transformers would ask on a terminal whether to run it."""
    marker = folder / "executed"
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    auto_map = {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Slow", "own.Fast"]}
    edit_json(folder / file, auto_map=auto_map)
    if file == "config.json":
        edit_json(folder / file, model_type=None)
    try:
        export_checkpoint(folder, out)
    except CheckpointError as error:
        assert_one_sentence(str(error))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["bert", "half of safetensors", "missing weight"])
def test_command_line_says_so_and_exits_with_1(
    name: str, folder: Path, out: Path, capsys: Captured
) -> None:
    change, _ = REFUSED[name]
    change(folder)
    failure(capsys, "export", folder, out, progress=True)
    assert_nothing_written(out)


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nothing", "a b", "config.jsn"])
def test_no_checkpoint_at_all(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    refusal(CheckpointError, lambda: export_checkpoint(name, out), match="no folder")
    assert_nothing_written(out)


def test_folder_has_no_revision(folder: Path, out: Path) -> None:
    with pytest.raises(CheckpointError, match="revision"):
        export_checkpoint(folder, out, revision="main")
    assert_nothing_written(out)


# Where the bundle goes


def test_bundle_is_not_replaced_unless_asked(
    bundle: Path, other_checkpoint: Path, out: Path
) -> None:
    shutil.copytree(bundle, out)
    refusal(BundleError, lambda: export_checkpoint(other_checkpoint, out), match="--overwrite")
    assert contents(out) == contents(bundle)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_overwrite_replaces_a_bundle(bundle: Path, other_checkpoint: Path, out: Path) -> None:
    shutil.copytree(bundle, out)
    exported = export_checkpoint(other_checkpoint, out, overwrite=True)
    assert exported.folder == out
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert load(out, verify=True).bundle.manifest.source.id == other_checkpoint.name
    assert ids_of(out) != ids_of(bundle)


@pytest.mark.parametrize("overwrite", [True, False])
def test_folder_that_is_no_bundle_is_never_replaced(
    overwrite: bool, folder: Path, out: Path
) -> None:
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("all of it")
    with pytest.raises(BundleError, match="not a bundle"):
        export_checkpoint(folder, out, overwrite=overwrite)
    assert contents(out) == {"thesis.txt": b"all of it"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_file_is_never_replaced(overwrite: bool, folder: Path, out: Path) -> None:
    out.parent.mkdir()
    out.write_text("a file", encoding="utf-8")
    with pytest.raises(BundleError, match="not a bundle"):
        export_checkpoint(folder, out, overwrite=overwrite)
    assert out.read_text(encoding="utf-8") == "a file"


def test_empty_folder_is_filled(folder: Path, out: Path) -> None:
    out.mkdir(parents=True)
    export_checkpoint(folder, out)
    load(out, verify=True)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


# Verification


def wrong_scale(config: Any, layer: int) -> float:
    return 1.05 * float((config.n_embd // config.n_head) ** -0.5)


def no_activation(self: Any, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.relu(hidden + bias)


def swapped_weights(model: GPT2LMHeadModel, sizes: Any) -> Weights:
    weights = RIGHT_WEIGHTS(model, sizes)
    names = "h.0.mlp.output.weight", "h.1.mlp.output.weight"
    return weights | dict(zip(names, [weights[n] for n in reversed(names)], strict=True))


RIGHT_WEIGHTS = gpt2._weights
MISTAKES: list[tuple[Any, str, Callable[..., Any]]] = [
    (gpt2, "attention_scale", wrong_scale),
    (Layers, "_activate", no_activation),
    (gpt2, "_weights", swapped_weights),
]


@pytest.mark.parametrize(
    ("where", "name", "mistake"), MISTAKES, ids=[name for _, name, _ in MISTAKES]
)
def test_wrong_graph_is_refused(
    where: Any,
    name: str,
    mistake: Callable[..., Any],
    folder: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(where, name, mistake)
    refusal(CheckpointError, lambda: export_checkpoint(folder, out), match="differ from PyTorch")
    assert_nothing_written(out)


def test_wrong_graph_does_not_replace_a_bundle(
    bundle: Path, other_checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, out)
    monkeypatch.setattr(gpt2, "attention_scale", wrong_scale)
    with pytest.raises(CheckpointError, match="differ from PyTorch"):
        export_checkpoint(other_checkpoint, out, overwrite=True)
    assert contents(out) == contents(bundle)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_largest_difference_is_printed_and_kept(folder: Path, out: Path) -> None:
    messages: list[str] = []
    bundle = export_checkpoint(folder, out, progress=messages.append)
    verification = load(out).bundle.manifest.verification
    assert verification == bundle.manifest.verification
    assert verification is not None
    assert verification.positions > 20
    assert 0 < verification.max_logit_difference < 1e-4
    assert 1 < verification.max_logit < 100
    assert sum(f"{verification.max_logit_difference:.1e}" in line for line in messages) == 1
    assert all("\n" not in message for message in messages)


def test_exports_are_reproducible(folder: Path, out: Path, model: Model) -> None:
    """The same checkpoint gives the same files."""
    assert export_checkpoint(folder, out).manifest.files == model.bundle.manifest.files
    assert np.array_equal(ids_of(out), ids_of(model.bundle.folder))
