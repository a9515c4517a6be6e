"""Token ids, one at a time, into pieces of text as soon as they are certain.

The pieces join to exactly `Tokenizer.decode` of all ids. `tokenizers.decoders.DecodeStream` does
not promise that: it never gives out a tail that ends in U+FFFD. So the tokenizer's decoder is
followed token by token here: a token becomes text in one stage, and every later stage passes text
on, holding back only what the next piece could still change. No stage looks at old text again,
so a token costs the same at any length.

    token -> bytes or words -> leading space taken off -> clean-up of spaces -> piece
"""

from __future__ import annotations

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from edgeseq.runtime.tokenizer import CLEAN_UPS, Tokenizer

_REPLACEMENT_CHARACTER: Final = "\ufffd"
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Detokenizer:
    """Streams the text of one sequence of token ids.

    For any ids, the results of `push` and the one of `finish` join to `tokenizer.decode(ids)`.
    Byte-level decoders hold back an incomplete character, clean-up the start of a pattern such
    as " '". Byte fallback holds back its `<0xNN>` tokens until another kind of token, because
    one bad byte turns the whole run into U+FFFD. A decoder of a kind not known here gives all
    its text at `finish`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._source, self._stages = _follow(tokenizer)
        if tokenizer.clean_up_tokenization_spaces:
            self._stages += [_Replacement(old, new) for old, new in CLEAN_UPS]

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


class _Stage(ABC):
    """A step of the stream: takes tokens or text in order, gives text in order."""

    @abstractmethod
    def push(self, text: str) -> str:
        """Take the next token or text and return what is certain."""

    def finish(self) -> str:
        """Return what was held back."""
        return ""


def _follow(tokenizer: Tokenizer) -> tuple[_Stage, list[_Stage]]:
    """Return the stage that turns tokens into text like `tokenizer`'s decoder, and its followers.

    The configurations are those of tokenizer.json: GPT-2's, T5's, BERT's, and with byte fallback
    Gemma's and Llama's, which takes a leading space off.
    """
    decoder = tokenizer.decoder
    if decoder is None:
        return _Words(" ".join), []
    config: dict[str, Any] = json.loads(decoder.__getstate__())
    match config.get("decoders", [config]):
        case [{"type": "ByteLevel"}]:
            return _Bytes(), []
        case [{"type": "Metaspace" | "WordPiece"}]:
            return _Words(decoder.decode), []
        case [
            {"type": "Replace", "pattern": {"String": old}, "content": new},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *rest,
        ]:
            match rest:
                case []:
                    return _ByteFallback(old, new), []
                case [{"type": "Strip", "content": content, "start": start, "stop": 0}]:
                    return _ByteFallback(old, new), [_LeadingStrip(content, start)]
    return _Whole(decoder.decode), []


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet: the character that stands for each byte in a vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF: Final = _byte_of_character()


class _Bytes(_Stage):
    """Byte-level BPE: each token is some bytes, and all bytes together are UTF-8."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, text: str) -> str:
        try:
            data = bytes(map(_BYTE_OF.__getitem__, text))
        except KeyError:  # an added token, spelled as it is
            data = text.encode()
        return self._utf8.decode(data)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _Words(_Stage):
    """Decoders that render every token by itself, but the first of a text differently."""

    def __init__(self, join: Callable[[list[str]], str]) -> None:
        self._join = join
        self._before: list[str] = []
        self._start = len(join(["a"]))

    def push(self, text: str) -> str:
        if self._before:
            return self._join([*self._before, text])[self._start :]
        self._before = ["a"]  # any token will do to make the next one not the first
        return self._join([text])


class _ByteFallback(_Stage):
    """Tokens are text with `old` for `new`, except runs of `<0xNN>`.

    A run is the text of its bytes if all of it is UTF-8, else one U+FFFD a byte.
    """

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._run = bytearray()
        self._is_broken = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")

    def push(self, text: str) -> str:
        text = text.replace(self._old, self._new)
        byte_token = _BYTE_TOKEN.fullmatch(text)
        if byte_token is None:
            return self.finish() + text
        if self._is_broken:
            return _REPLACEMENT_CHARACTER
        byte = bytes.fromhex(byte_token[1])
        self._run += byte
        try:
            self._utf8.decode(byte)
        except UnicodeDecodeError:
            self._is_broken = True
            return _REPLACEMENT_CHARACTER * len(self._run)
        return ""

    def finish(self) -> str:
        text = "" if self._is_broken else self._text_of_run()
        self._run.clear()
        self._is_broken = False
        self._utf8.reset()
        return text

    def _text_of_run(self) -> str:
        try:
            return self._run.decode()
        except UnicodeDecodeError:
            return _REPLACEMENT_CHARACTER * len(self._run)


class _Whole(_Stage):
    """Any other decoder: nothing is known to be certain before the end."""

    def __init__(self, join: Callable[[list[str]], str]) -> None:
        self._join = join
        self._tokens: list[str] = []

    def push(self, text: str) -> str:
        self._tokens.append(text)
        return ""

    def finish(self) -> str:
        return self._join(self._tokens)


class _LeadingStrip(_Stage):
    """Takes up to `count` of the character `content` off the start of the text."""

    def __init__(self, content: str, count: int) -> None:
        self._content, self._count = content, count

    def push(self, text: str) -> str:
        while text and self._count:
            if text[0] != self._content:
                self._count = 0
                break
            self._count -= 1
            text = text[1:]
        return text


class _Replacement(_Stage):
    """`str.replace(old, new)` on a stream: holds back a tail that may be the start of `old`."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._held = ""

    def push(self, text: str) -> str:
        *done, tail = (self._held + text).split(self._old)
        sizes = range(min(len(self._old) - 1, len(tail)), 0, -1)
        size = next((size for size in sizes if self._old.startswith(tail[-size:])), 0)
        self._held = tail[len(tail) - size :]
        return self._new.join([*done, tail[: len(tail) - size]])

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held
