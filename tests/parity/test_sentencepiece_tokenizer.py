"""Tokenizers of Marian, M2M100, NLLB and mBART, compared with Transformers."""

from __future__ import annotations

import json
import random
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from edgeseq.export.checkpoint.sentencepiece import write_sentencepiece
from edgeseq.export.checkpoint.tokenizer import write_tokenizer
from edgeseq.runtime.bundle.manifest import Languages
from edgeseq.runtime.errors import BundleError, CheckpointError, OptionError, PromptError
from edgeseq.runtime.text.sentencepiece_tokenizer import SentencePieceTokenizer
from edgeseq.runtime.text.special_tokens import LanguagePair
from edgeseq.runtime.text.tokenizer import Tokenizer
from tests.support.errors import refusal
from tests.support.sentencepieces import (
    ENGLISH,
    sentences,
    trained,
    varied_texts,
    write_m2m100,
    write_marian,
    write_multilingual,
)
from tests.support.texts import streamed

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

Write = Callable[[Path], None]
LANGUAGES = ["__en__", "__fr__", "__de__"]
FOLDERS: dict[str, Write] = {
    "marian": write_marian,
    "marian with two vocabularies": partial(write_marian, separate=True),
    "marian that cleans up": partial(write_marian, clean_up_tokenization_spaces=True),
    "m2m100": partial(write_m2m100, src_lang="fr", tgt_lang="de"),
    "m2m100 of pairs": partial(
        write_m2m100, kind="bpe", tgt_lang="fr", additional_special_tokens=LANGUAGES
    ),
    "nllb": partial(
        write_multilingual, name="NllbTokenizer", src_lang="fra_Latn", tgt_lang="deu_Latn"
    ),
    "nllb of pairs": partial(
        write_multilingual, name="NllbTokenizer", kind="bpe", tgt_lang="deu_Latn"
    ),
    "old nllb": partial(
        write_multilingual, name="NllbTokenizer", legacy_behaviour=True, tgt_lang="deu_Latn"
    ),
    "mbart": partial(write_multilingual, name="MBartTokenizer", src_lang="en_XX", tgt_lang="ro_RO"),
    "mbart50": partial(write_multilingual, name="MBart50Tokenizer", tgt_lang="de_DE"),
}
Ours = Tokenizer | SentencePieceTokenizer


def opened(folder: Path, source: str | None = None, target: str | None = None) -> Ours:
    """Export the tokenizer of ``folder`` and open it."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    form = write_tokenizer(folder, out)
    languages = form.languages
    pair = None
    if languages is not None:
        pair = LanguagePair.of(languages, source or languages.source, target or languages.target)
    kind = SentencePieceTokenizer if form.is_sentencepiece else Tokenizer
    assert form.file is not None
    return kind(out / form.file, form.clean_up_tokenization_spaces, languages=pair)


@pytest.fixture(scope="module", params=FOLDERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    FOLDERS[request.param](folder)
    ours = opened(folder)
    return ours, AutoTokenizer.from_pretrained(folder)


def test_sources_and_targets_are_as_in_transformers(pair: Any) -> None:
    ours, theirs = pair
    for text in ["", " ", *sentences(ENGLISH)[:300], *varied_texts(2500)]:
        assert ours.encode(text) == theirs(text).input_ids, ascii(text)
        target = ours.encode_target(text)
        assert target == theirs(text_target=text).input_ids, ascii(text)
        decoded = theirs.decode(target, skip_special_tokens=True)
        assert ours.decode(target) == decoded, ascii(text)
        assert streamed(ours, target) == decoded, ascii(text)


def test_any_ids_decode_as_in_transformers(pair: Any) -> None:
    ours, theirs = pair
    generator = random.Random(0)
    for _ in range(2500):
        ids = generator.choices(range(len(theirs) + 2), k=generator.randrange(12))
        decoded = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == decoded, ids
        assert streamed(ours, ids) == decoded, ids


def test_truncation_and_fragments_are_as_in_transformers(pair: Any) -> None:
    ours, theirs = pair
    for text in varied_texts(200):
        cut = theirs(text, truncation=True, max_length=7).input_ids
        assert ours.encode(text, max_length=7) == cut, ascii(text)
        plain = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_special_tokens=False) == plain, ascii(text)


def test_every_language_is_as_in_transformers(tmp_path: Path) -> None:
    for name, code, other in (("nllb", "ace_Latn", "zul_Latn"), ("mbart", "fr_XX", "zh_CN")):
        folder = tmp_path / name
        folder.mkdir()
        FOLDERS[name](folder)
        theirs = AutoTokenizer.from_pretrained(folder, src_lang=code, tgt_lang=other)
        ours = opened(folder, code, other)
        assert ours.encode("the king") == theirs("the king").input_ids
        assert ours.encode_target("the king") == theirs(text_target="the king").input_ids


def test_languages_of_the_manifest(tmp_path: Path) -> None:
    FOLDERS["m2m100"](tmp_path)
    (tmp_path / "out").mkdir()
    form = write_tokenizer(tmp_path, tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert form.languages == Languages(
        ids=theirs.lang_code_to_id, place="prefix", end=2, source="fr", target="de"
    )


def test_language_that_the_model_does_not_have(tmp_path: Path) -> None:
    FOLDERS["m2m100"](tmp_path)
    refusal(OptionError, lambda: opened(tmp_path, "xx"), match="no language 'xx'")


def test_target_without_a_language(tmp_path: Path) -> None:
    write_m2m100(tmp_path)
    tokenizer = opened(tmp_path)
    refusal(OptionError, lambda: tokenizer.encode_target("a"), match="with_languages")


def test_text_with_half_a_character(pair: Any) -> None:
    ours, _ = pair
    with pytest.raises(PromptError, match="lone surrogates"):
        ours.encode("\ud800")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"vocabulary": {}}', b"\xff\xfe"])
def test_file_that_is_not_a_tokenizer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sentencepiece.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"sentencepiece\.json cannot be read"):
        SentencePieceTokenizer(path, False)


def trie_of(content: dict[str, Any]) -> bytearray:
    return bytearray(b64decode(content["source"]["charsmap"]))


def with_a_long_jump(content: dict[str, Any]) -> None:
    trie = trie_of(content)
    trie[4:8] = (0x7FFFFC00).to_bytes(4, "little")  # the root's unit
    content["source"]["charsmap"] = b64encode(trie).decode()


def without_replacements(content: dict[str, Any]) -> None:
    trie = trie_of(content)
    del trie[4 + int.from_bytes(trie[:4], "little") + 1 :]
    content["source"]["charsmap"] = b64encode(trie).decode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.update(unknown="no such piece"),
        lambda content: content["vocabulary"].pop("<unk>"),
        lambda content: content["vocabulary"].clear(),
        lambda content: content["vocabulary"].update(a="1"),
        lambda content: content["vocabulary"].update(a=1.5),
        lambda content: content.update(end=None),
        lambda content: next(iter(content["added_tokens"].values())).pop("lstrip"),
        lambda content: next(iter(content["added_tokens"].values())).update(id=[1]),
        lambda content: content["source"]["pieces"].update({"": -1.0}),
        lambda content: content["source"]["pieces"].update(a=1e300),
        lambda content: content["source"]["pieces"].update(a="1"),
        lambda content: content["source"].update(charsmap="AQAAAAA="),
        with_a_long_jump,
        without_replacements,
    ],
)
def test_content_with_which_encoding_would_fail(
    tmp_path: Path, damage: Callable[[dict[str, Any]], Any]
) -> None:
    write_marian(tmp_path)
    write_sentencepiece(AutoTokenizer.from_pretrained(tmp_path), tmp_path)
    path = tmp_path / "sentencepiece.json"
    content = json.loads(path.read_bytes())
    damage(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleError, match=r"sentencepiece\.json cannot be read"):
        SentencePieceTokenizer(path, False)


def test_model_with_user_defined_symbols_is_refused(tmp_path: Path) -> None:
    write_m2m100(tmp_path)
    model = trained(ENGLISH, 300, user_defined_symbols="<x>")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model)
    refusal(CheckpointError, lambda: opened(tmp_path), match="user-defined symbols")
