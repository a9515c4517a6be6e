"""The bytes that each token adds to a text, for constrained decoding."""

from __future__ import annotations

import json
from collections.abc import Callable

from ..errors import OptionError
from .byte_tokenizer import AnyTokenizer
from .detokenizer_stages import BYTE_OF, BYTE_TOKEN
from .tokenizer_decoder import (
    ByteFallback,
    ByteLevel,
    Join,
    Pieces,
    RawBytes,
    Unknown,
    Words,
    decoder_form,
)

# spell(token): returns the bytes that a token adds to a text as its first token, and the bytes that
# it adds after another token.
TokenBytes = Callable[[str], tuple[bytes, bytes]]


def token_bytes_of(tokenizer: AnyTokenizer) -> TokenBytes:
    """Return the function from a token to its bytes, which does the same as the decoder.

    Raises ``OptionError`` for an unknown decoder.
    """
    match decoder_form(tokenizer):
        case RawBytes():
            return lambda token: (token.encode("latin-1"), token.encode("latin-1"))
        case Pieces():
            return _pieces
        case ByteLevel():
            return _byte_level
        case Words(join):
            return _words(join)
        case ByteFallback(old, new, stripped, 0 | 1 as count):
            return _byte_fallback(old, new, stripped * count)
        case ByteFallback(most_stripped=count):
            form = f"a Strip of {count} characters"
        case Unknown(config):
            form = json.dumps(config)[:100]
    raise OptionError(
        f"json_schema, regex and grammar do not work with this tokenizer, whose decoder is {form}: "
        "use a model whose tokenizer decodes like GPT-2's, T5's, BERT's, Gemma's or Llama's."
    )


def _pieces(token: str) -> tuple[bytes, bytes]:
    text = token.replace("\u2581", " ")
    return text.lstrip().encode(), text.encode()


def _byte_level(token: str) -> tuple[bytes, bytes]:
    try:
        data = bytes(map(BYTE_OF.__getitem__, token))
    except KeyError:  # an added token, which is plain text
        data = token.encode()
    return data, data


def _words(join: Join) -> TokenBytes:
    start = len(join(["a"]))
    return lambda token: (join([token]).encode(), join(["a", token])[start:].encode())


def _byte_fallback(old: str, new: str, stripped: str) -> TokenBytes:
    def spell(token: str) -> tuple[bytes, bytes]:
        text = token.replace(old, new)
        byte_token = BYTE_TOKEN.fullmatch(text)
        data = bytes.fromhex(byte_token[1]) if byte_token else text.encode()
        return data.removeprefix(stripped.encode()), data

    return spell
