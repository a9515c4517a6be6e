"""The stages that turn a stream of tokens into text.

Each stage takes tokens or text in order and returns text in order. It holds back only the text that
the next piece could still change. ``detokenizer.py`` combines the stages for a tokenizer.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Self

_REPLACEMENT_CHARACTER: Final = "\ufffd"
BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Stage(ABC):
    """A stage of the stream, from tokens or text to text, both in order.

    Attributes are reassigned and never changed in place, so that a fork may share their values.
    The exception is ``Whole``: it appends to its list in place, and ``fork`` copies the list.
    """

    @abstractmethod
    def push(self, text: str) -> str:
        """Take the next token or text; return the text that has become certain."""

    def finish(self) -> str:
        """Return the text that was held back."""
        return ""

    def rest(self, text: str) -> str:
        """Return the text of ``push(text)`` and ``finish`` without changing the stage."""
        twin = self.fork()
        return twin.push(text) + twin.finish()

    def fork(self) -> Self:
        """Return an independent copy."""
        twin = object.__new__(type(self))  # `copy.copy` takes several times as long
        twin.__dict__.update(self.__dict__)
        return twin


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet: for each character of its vocabulary, the byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF: Final = _byte_of_character()


class Bytes(Stage):
    """Byte-level BPE: each token is a few bytes, and all bytes together are UTF-8."""

    def __init__(self) -> None:
        self._incomplete = b""  # the first bytes of a character that is not complete yet

    def push(self, text: str) -> str:
        try:
            data = bytes(map(BYTE_OF.__getitem__, text))
        except KeyError:  # an added token, which is plain text
            data = text.encode()
        data = self._incomplete + data
        text, size = codecs.utf_8_decode(data, "replace")
        self._incomplete = data[size:]
        return text

    def finish(self) -> str:
        return self._incomplete.decode(errors="replace")


class Utf8(Stage):
    """ByT5: each token is the character whose code point is its byte; invalid UTF-8 is dropped."""

    def __init__(self) -> None:
        self._incomplete = b""

    def push(self, text: str) -> str:
        data = self._incomplete + text.encode("latin-1")
        text, size = codecs.utf_8_decode(data, "ignore")
        self._incomplete = data[size:]
        return text


class Spaced(Stage):
    """SentencePiece: each token is text, with "\u2581" for a space."""

    def push(self, text: str) -> str:
        return text.replace("\u2581", " ")


class Stripped(Stage):
    """``str.strip`` on a stream; whitespace that may be the end of the text is held back."""

    def __init__(self) -> None:
        self._held = ""
        self._has_begun = False

    def push(self, text: str) -> str:
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        text = self._held + text
        done = text.rstrip()
        self._held = text[len(done) :]
        return done


class RenderedTokens(Stage):
    """Decoders that decode each token independently, but the first token of a text differently."""

    def __init__(self, join: Callable[[list[str]], str]) -> None:
        self._join = join
        self._before: list[str] = []
        self._start = len(join(["a"]))

    def push(self, text: str) -> str:
        if self._before:
            return self._join([*self._before, text])[self._start :]
        self._before = ["a"]  # any token, so that the next one is not decoded as the first
        return self._join([text])


class ByteRuns(Stage):
    """Byte fallback: a token is text, with ``old`` replaced by ``new``, or one byte as ``<0xNN>``.

    A run of bytes becomes text if all of it is valid UTF-8, else one U+FFFD for each byte.
    """

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._run = self._incomplete = b""
        self._is_broken = False

    def push(self, text: str) -> str:
        text = text.replace(self._old, self._new)
        byte_token = BYTE_TOKEN.fullmatch(text)
        if byte_token is None:
            return self.finish() + text
        if self._is_broken:
            return _REPLACEMENT_CHARACTER
        byte = bytes.fromhex(byte_token[1])
        self._run += byte
        self._incomplete += byte
        try:
            _, size = codecs.utf_8_decode(self._incomplete)
        except UnicodeDecodeError:
            self._is_broken = True
            return _REPLACEMENT_CHARACTER * len(self._run)
        self._incomplete = self._incomplete[size:]
        return ""

    def finish(self) -> str:
        text = "" if self._is_broken else self._text_of_run()
        self._run = self._incomplete = b""
        self._is_broken = False
        return text

    def _text_of_run(self) -> str:
        try:
            return self._run.decode()
        except UnicodeDecodeError:
            return _REPLACEMENT_CHARACTER * len(self._run)


class Whole(Stage):
    """Any other decoder: all text is held back until ``finish``."""

    def __init__(self, join: Callable[[list[str]], str]) -> None:
        self._join = join
        self._tokens: list[str] = []

    def push(self, text: str) -> str:
        self._tokens.append(text)
        return ""

    def fork(self) -> Self:
        twin = super().fork()
        twin._tokens = self._tokens.copy()
        return twin

    def finish(self) -> str:
        return self._join(self._tokens)


class LeadingStrip(Stage):
    """Removal of up to ``count`` characters ``content`` from the start of the text."""

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


class Replacement(Stage):
    """``str.replace(old, new)`` on a stream; a tail that may start ``old`` is held back."""

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

    def rest(self, text: str) -> str:  # no fork: clean-up calls this ten times per token
        return (self._held + text).replace(self._old, self._new)
