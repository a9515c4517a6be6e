"""Token ids, one at a time, into pieces of text as soon as they are certain.

The pieces join to exactly `Tokenizer.decode` of all ids. `tokenizers.decoders.DecodeStream` does
not promise that: it never gives out a tail that ends in U+FFFD. So the tokenizer's decoder is
followed token by token here: a token becomes text in one stage, and every later stage passes text
on, holding back only what the next piece could still change. No stage looks at old text again,
so a token costs the same at any length.

    token -> bytes or words -> leading space taken off -> clean-up of spaces -> piece
"""

from __future__ import annotations

import json
from typing import Any

from .byte_tokenizer import ByteTokenizer
from .stages import ByteFallback, Bytes, LeadingStrip, Replacement, Stage, Utf8, Whole, Words
from .tokenizer import CLEAN_UPS, Tokenizer


class Detokenizer:
    """Streams the text of one sequence of token ids.

    For any ids, the results of `push` and the one of `finish` join to `tokenizer.decode(ids)`.
    Byte-level decoders hold back an incomplete character, clean-up the start of a pattern such
    as " '". Byte fallback holds back its `<0xNN>` tokens until another kind of token, because
    one bad byte turns the whole run into U+FFFD. A decoder of a kind not known here gives all
    its text at `finish`.
    """

    def __init__(self, tokenizer: Tokenizer | ByteTokenizer) -> None:
        self._tokenizer = tokenizer
        self._source, self._stages = _follow(tokenizer)
        if tokenizer.clean_up_tokenization_spaces:
            self._stages += [Replacement(old, new) for old, new in CLEAN_UPS]

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that has become certain, often ""."""
        token = self._tokenizer.token(token_id)
        if token is None:
            return ""
        text = self._source.push(token)
        for stage in self._stages:
            text = stage.push(text)
        return text

    def finish(self) -> str:
        """Return the text still held back; no id may be pushed after this."""
        text = self._source.finish()
        for stage in self._stages:
            text = stage.push(text) + stage.finish()
        return text

    def held(self) -> str:
        """Return the text that `finish` would return now."""
        text = self._source.fork().finish()
        for stage in self._stages:
            text = stage.rest(text)
        return text

    def fork(self) -> Detokenizer:
        """Return a copy from which the sequence can go on in another way."""
        twin = object.__new__(Detokenizer)  # not by `__init__`, which reads the configuration
        twin._tokenizer = self._tokenizer
        twin._source = self._source.fork()
        twin._stages = [stage.fork() for stage in self._stages]
        return twin


def _follow(tokenizer: Tokenizer | ByteTokenizer) -> tuple[Stage, list[Stage]]:
    """Return the stage that turns tokens into text like `tokenizer`'s decoder, and its followers.

    The configurations are those of tokenizer.json: GPT-2's, T5's, BERT's, and with byte fallback
    Gemma's and Llama's, which takes a leading space off.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return Utf8(), []
    decoder = tokenizer.decoder
    if decoder is None:
        return Words(" ".join), []
    config: dict[str, Any] = json.loads(decoder.__getstate__())
    match config.get("decoders", [config]):
        case [{"type": "ByteLevel"}]:
            return Bytes(), []
        case [{"type": "Metaspace" | "WordPiece"}]:
            return Words(decoder.decode), []
        case [
            {"type": "Replace", "pattern": {"String": old}, "content": new},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *rest,
        ]:
            match rest:
                case []:
                    return ByteFallback(old, new), []
                case [{"type": "Strip", "content": content, "start": start, "stop": 0}]:
                    return ByteFallback(old, new), [LeadingStrip(content, start)]
    return Whole(decoder.decode), []
