"""Tokenizers like those of Marian, M2M100, NLLB and mBART, with small SentencePiece models."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (ROOT / "quantize" / "calibration.txt").read_text(encoding="utf-8")
PAGES = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
OTHER = """
    Der Fuchs läuft über die Straße, naïve Bücher ½ ﬁnden „große“ Wörter … Ελλάδα Привет 你好世界
    κόσμος ελληνικά слово язык Übung Größe café déjà vu garçon œuvre ça où être naïf Noël
"""
CODES = (">>fra<<", ">>deu<<")
PLANES = [range(0x20, 0x800), range(0x800, 0xD800), range(0xE000, 0x10000), range(0x10000, 0x2FA20)]
SPACES = ["  ", " ", "\t", "\n\n", "\r\n", "\x0b", "\x85", "\xa0", "\u2003", "\u2028", "\u3000"]
ODD = ["\u200b", "\ufeff", "\x00", "\x01", "\x1f", "\x7f", "\ufffd", "\u2581", "e\u0301", "\ufb01"]
ODD += [
    "\u00bd",
    "\u00a8",
    "\uff46",
    "\u1100\u1161\u11a8",
    "\u0915\u094d",
    "\U0001f469\u200d\U0001f4bb",
]
SPECIAL = ["</s>", "<unk>", "<pad>", "<s>", "<mask>", ">>fra<<", ">>xx yy<<", ">>", "<<", "__en__"]
SPECIAL += ["__fr__", "en_XX", "eng_Latn", "</S>"]


def sentences(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


@cache
def trained(text: str, size: int, kind: str = "unigram", **settings: Any) -> bytes:
    """Return a SentencePiece model with the ids of its own special tokens."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(text)),
        model_writer=model,
        vocab_size=size,
        model_type=kind,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


def pieces_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_marian(
    folder: Path, *, separate: bool = False, codes: Sequence[str] = CODES, **changes: Any
) -> None:
    """Write a Marian tokenizer; some pieces of both models are not in the vocabulary.

    ``codes``: the tokens for its target languages.
    """
    source = trained(ENGLISH, 400, character_coverage=0.999)
    target = trained(OTHER * 3, 120, character_coverage=0.99)
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    pieces = [*pieces_of(source)[3:], *pieces_of(target)[3:]]
    kept = [piece for i, piece in enumerate(dict.fromkeys(pieces)) if i % 11]
    tokens = ["</s>", "<unk>", *kept, "好", "漢字", "ß", "<s>", *codes, "<pad>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    write_json(folder / "vocab.json", vocabulary)
    settings = {"source_lang": "en", "target_lang": "de", "tokenizer_class": "MarianTokenizer"}
    if separate:
        other = ["<pad>", "<unk>", "</s>", *pieces_of(target)[3:]]
        write_json(folder / "target_vocab.json", {token: i for i, token in enumerate(other)})
        settings |= {"separate_vocabs": True}  # type: ignore[dict-item]
    write_json(folder / "tokenizer_config.json", {**settings, **changes})
    write_json(folder / "config.json", {"model_type": "marian"})


def write_m2m100(folder: Path, kind: str = "unigram", **settings: Any) -> None:
    """Write an M2M100 tokenizer; some pieces of the model are not in the vocabulary."""
    model = trained(ENGLISH + OTHER * 3, 500, kind)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    kept = [piece for i, piece in enumerate(pieces_of(model)[3:]) if i % 13]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *kept]
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "M2M100Tokenizer", **settings})
    write_json(folder / "config.json", {"model_type": "m2m_100"})


def write_multilingual(folder: Path, name: str, kind: str = "unigram", **settings: Any) -> None:
    """Write a tokenizer of NLLB or mBART, whose class is ``name``."""
    model = trained(ENGLISH + OTHER * 3, 500, kind)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name, **settings})
    write_json(folder / "config.json", {"model_type": "mbart"})


def varied_texts(count: int, special: Sequence[str] = SPECIAL) -> Iterator[str]:
    """Yield English, words of other scripts, special tokens, odd characters and spaces."""
    generator = random.Random(count)
    english = (ENGLISH + PAGES).split(" ")
    others = OTHER.split()
    for _ in range(count):
        parts = []
        for _ in range(generator.randrange(16)):
            kind = generator.random()
            if kind < 0.35:
                parts.append(generator.choice(english) + " ")
            elif kind < 0.5:
                parts.append(generator.choice(others) + generator.choice(["", " "]))
            elif kind < 0.65:
                parts.append(generator.choice(SPACES))
            elif kind < 0.75:
                parts.append(generator.choice(ODD))
            elif kind < 0.9:
                parts.append(generator.choice(special))
            else:
                parts.append(chr(generator.choice(generator.choice(PLANES))))
        yield "".join(parts)
