"""How a tokenizer decoder spells each token in bytes, as `detokenizer.py` follows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..errors import OptionError
from .byte_tokenizer import ByteTokenizer
from .stages import BYTE_OF, BYTE_TOKEN
from .tokenizer import Tokenizer

AnyTokenizer = Tokenizer | ByteTokenizer
Spelling = Callable[[str], tuple[bytes, bytes]]
"""From a token to the bytes that it adds to a text as the first token, and after another."""


def spelling_of(tokenizer: AnyTokenizer) -> Spelling:
    """How `tokenizer`'s decoder spells a token."""
    if isinstance(tokenizer, ByteTokenizer):
        return lambda token: (token.encode("latin-1"), token.encode("latin-1"))
    decoder = tokenizer.decoder
    if decoder is None:
        return _words(" ".join)
    config: dict[str, Any] = json.loads(decoder.__getstate__())
    match config.get("decoders", [config]):
        case [{"type": "ByteLevel"}]:
            return _byte_level
        case [{"type": "Metaspace" | "WordPiece"}]:
            return _words(decoder.decode)
        case [{"type": "Replace"} as spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *rest]:
            match spaces["pattern"], rest:
                case {"String": old}, []:
                    return _byte_fallback(old, spaces["content"], "")
                case {"String": old}, [
                    {"type": "Strip", "start": 0 | 1 as count, "stop": 0} as strip
                ]:
                    return _byte_fallback(old, spaces["content"], strip["content"] * count)
    raise OptionError(
        "json_schema, regex and grammar need a tokenizer that decodes like GPT-2's, T5's, BERT's, "
        f"Gemma's or Llama's; this one's decoder is {json.dumps(config)[:100]}."
    )


def _byte_level(token: str) -> tuple[bytes, bytes]:
    try:
        data = bytes(map(BYTE_OF.__getitem__, token))
    except KeyError:  # an added token, spelled as it is
        data = token.encode()
    return data, data


def _words(join: Callable[[list[str]], str]) -> Spelling:
    """Decoders that spell every token by itself, but the first of a text differently."""
    start = len(join(["a"]))
    return lambda token: (join([token]).encode(), join(["a", token])[start:].encode())


def _byte_fallback(old: str, new: str, stripped: str) -> Spelling:
    """Tokens are bytes as `<0xNN>` or texts; `stripped` is taken off the start of the text."""

    def spell(token: str) -> tuple[bytes, bytes]:
        text = token.replace(old, new)
        byte_token = BYTE_TOKEN.fullmatch(text)
        data = bytes.fromhex(byte_token[1]) if byte_token else text.encode()
        return data.removeprefix(stripped.encode()), data

    return spell
