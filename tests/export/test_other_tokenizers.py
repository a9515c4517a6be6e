"""Tokenizers that are not usual for a model type: ``AutoTokenizer`` decides, as in Transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from edgeseq.export import CheckpointError, export_checkpoint
from edgeseq.export.checkpoint.tokenizer import write_tokenizer
from edgeseq.runtime import load
from edgeseq.runtime.text.tokenizer import Tokenizer
from tests.support.checkpoints import byte_level_tokenizer, seeded_gpt2, seeded_t5
from tests.support.errors import refusal
from tests.support.sentencepieces import ENGLISH, sentences, trained, varied_texts
from tests.support.texts import streamed

pytestmark = pytest.mark.filterwarnings("ignore:This sequence already has </s>")

Write = Callable[[Path], None]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "king",
    "##s",
    "a",
    "b",
    "你",
    "好",
    ".",
]
ROBERTA = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False}
OPT = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "</s>"}


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_spiece(folder: Path) -> None:
    """Write a T5 tokenizer, as Japanese GPT-2s have."""
    model = trained(ENGLISH, 300, pad_id=3, bos_id=1, eos_id=2, unk_id=0)
    (folder / "spiece.model").write_bytes(model)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "bos_token": "<s>"}
    write_json(folder / "tokenizer_config.json", settings)


def write_words(folder: Path) -> None:
    """Write a BERT vocabulary, as Chinese GPT-2s have."""
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})


def write_pairs(folder: Path, **settings: Any) -> None:
    """Write a byte-level vocabulary and its merges, as CodeT5 has."""
    byte_level_tokenizer().save_pretrained(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    for token in ("<s>", "</s>", "<unk>", "<pad>", "<mask>"):
        vocabulary.setdefault(token, len(vocabulary))
    write_json(folder / "vocab.json", vocabulary)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (folder / name).unlink()
    write_json(folder / "tokenizer_config.json", settings)


CASES: dict[str, tuple[str, Write]] = {
    "gpt2 with a SentencePiece model": ("gpt2", write_spiece),
    "gpt2 with words": ("gpt2", write_words),
    "gpt2 with </s> in front": ("gpt2", lambda folder: write_pairs(folder, **OPT)),
    "t5 with merges": ("t5", lambda folder: write_pairs(folder, **ROBERTA)),
    "t5 with words": ("t5", write_words),
}


def write_model(folder: Path, model_type: str) -> None:
    model = seeded_gpt2(vocab_size=340) if model_type == "gpt2" else seeded_t5(vocab_size=340)
    model.save_pretrained(folder)


@pytest.mark.parametrize("name", CASES)
def test_tokenizer_is_the_one_of_transformers(name: str, tmp_path: Path) -> None:
    model_type, write = CASES[name]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": model_type})
    write(folder)
    form = write_tokenizer(folder, tmp_path)
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(tmp_path / "tokenizer.json", form.clean_up_tokenization_spaces)
    for text in ["", *sentences(ENGLISH)[:200], *varied_texts(1000)]:
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids, ascii(text)
        plain = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_special_tokens=False) == plain, ascii(text)
        decoded = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == decoded, ascii(text)
        assert streamed(ours, ids) == decoded, ascii(text)


@pytest.mark.parametrize("name", ["gpt2 with a SentencePiece model", "t5 with merges"])
def test_checkpoint_exports_with_it(name: str, tmp_path: Path) -> None:
    model_type, write = CASES[name]
    folder = tmp_path / "checkpoint"
    write_model(folder, model_type)
    write(folder)
    model = load(export_checkpoint(folder, tmp_path / "bundle").folder)
    ids = AutoTokenizer.from_pretrained(folder)("the king").input_ids
    assert model.tokenizer.encode("the king") == ids


def test_tokenizer_of_another_folder(checkpoint: Path, tmp_path: Path) -> None:
    """Its own config.json is not needed: the model's applies."""
    model, tokenizer = tmp_path / "model", tmp_path / "tokenizer"
    model.mkdir()
    tokenizer.mkdir()
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        shutil.copy(checkpoint / name, model)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(checkpoint / name, tokenizer)
    refusal(
        CheckpointError,
        lambda: export_checkpoint(model, tmp_path / "out"),
        match=r"add tokenizer\.json, or merges\.txt and vocab\.json, or pass --tokenizer",
    )
    bundle = export_checkpoint(model, tmp_path / "out", tokenizer=tokenizer)
    expected = export_checkpoint(checkpoint, tmp_path / "expected")
    ours, theirs = load(bundle.folder).tokenizer, load(expected.folder).tokenizer
    assert ours.encode("Once upon") == theirs.encode("Once upon")


def test_folder_of_a_tokenizer_that_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    refusal(
        CheckpointError,
        lambda: export_checkpoint(checkpoint, tmp_path / "out", tokenizer=tmp_path / "no"),
        match="no folder",
    )


def test_tokenizer_only_in_python_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "gpt2"})
    write_words(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"})
    refusal(
        CheckpointError, lambda: write_tokenizer(tmp_path, tmp_path), match="BertJapaneseTokenizer"
    )


# Checkpoints of Transformers 5


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "GPT2Tokenizer", "extra_special_tokens": []},
        {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"], "backend": "t"},
        {"tokenizer_class": "TokenizersBackend", "is_local": True},
    ],
)
def test_settings_of_transformers_5(settings: dict[str, Any], tmp_path: Path) -> None:
    byte_level_tokenizer().save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    write_json(tmp_path / "tokenizer_config.json", {**settings, "unk_token": "<|endoftext|>"})
    write_json(tmp_path / "config.json", {"model_type": "gpt2"})
    (tmp_path / "out").mkdir()
    form = write_tokenizer(tmp_path, tmp_path / "out")
    ours = Tokenizer(tmp_path / "out" / "tokenizer.json", form.clean_up_tokenization_spaces)
    theirs = byte_level_tokenizer()
    extra = settings.get("extra_special_tokens", [])
    theirs.add_special_tokens({"additional_special_tokens": extra})
    for text in varied_texts(200, ["<x>", "<|endoftext|>"]):
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids, ascii(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), ascii(text)


def test_byt5_of_transformers_5(tmp_path: Path) -> None:
    sentinels = [f"<extra_id_{number}>" for number in range(125)]
    settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}
    write_json(tmp_path / "config.json", {"model_type": "t5"})
    for extra in ([], sentinels):
        tokens = {"extra_special_tokens": extra}
        write_json(tmp_path / "tokenizer_config.json", {**settings, **tokens})
        assert write_tokenizer(tmp_path, tmp_path).sentinels == 125
