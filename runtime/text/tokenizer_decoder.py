"""The form of a tokenizer's decoder: how the strings of its tokens become text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from .byte_tokenizer import AnyTokenizer, ByteTokenizer
from .tokenizer import Tokenizer

Join = Callable[[list[str]], str]


class RawBytes(NamedTuple):
    """ByT5: each token is the character whose code point is its byte."""


class Pieces(NamedTuple):
    """Marian, M2M100: tokens are joined, "\u2581" is a space, and the text is stripped."""


class ByteLevel(NamedTuple):
    """GPT-2: each token is some bytes, in the alphabet of byte-level BPE."""


class Words(NamedTuple):
    """T5, BERT, no decoder: ``join`` decodes each token alone, but the first one differently."""

    join: Join


class ByteFallback(NamedTuple):
    """Gemma, Llama: ``old`` in a token is replaced by ``new``; ``<0xNN>`` is a byte.

    Up to ``most_stripped`` characters ``stripped`` are removed from the start of the text.
    """

    old: str
    new: str
    stripped: str = ""
    most_stripped: int = 0


class Unknown(NamedTuple):
    """Any other decoder; only ``join`` is known."""

    config: dict[str, Any]
    join: Join


Form = RawBytes | Pieces | ByteLevel | Words | ByteFallback | Unknown


def decoder_form(tokenizer: AnyTokenizer) -> Form:
    """Return the form of a tokenizer's decoder from its configuration in tokenizer.json."""
    if isinstance(tokenizer, ByteTokenizer):
        return RawBytes()
    if not isinstance(tokenizer, Tokenizer):
        return Pieces()
    decoder = tokenizer.decoder
    if decoder is None:
        return Words(" ".join)
    config: dict[str, Any] = json.loads(decoder.__getstate__())
    match config.get("decoders", [config]):
        case [{"type": "ByteLevel"}]:
            return ByteLevel()
        case [{"type": "Metaspace" | "WordPiece"}]:
            return Words(decoder.decode)
        case [
            {"type": "Replace", "pattern": {"String": old}, "content": new},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *rest,
        ]:
            match rest:
                case []:
                    return ByteFallback(old, new)
                case [{"type": "Strip", "content": content, "start": count, "stop": 0}]:
                    return ByteFallback(old, new, content, count)
    return Unknown(config, decoder.decode)
