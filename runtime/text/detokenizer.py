"""Streaming detokenization: token ids into pieces of text, each as soon as it is certain.

The joined pieces equal ``Tokenizer.decode`` of all ids. With ``tokenizers.decoders.DecodeStream``
this is not the case: it never returns a tail that ends in U+FFFD. So this module does the same as
the tokenizer's decoder, but token by token. The first stage turns a token into text. Every later
stage passes text on and holds back only the end that the next piece could still change. No stage
reads old text again, so the time per token does not grow with the text.

    token -> bytes or words -> leading space removed -> clean-up of spaces -> piece
"""

from __future__ import annotations

from . import detokenizer_stages as stages
from .byte_tokenizer import AnyTokenizer
from .detokenizer_stages import Replacement, Stage
from .tokenizer import CLEAN_UPS
from .tokenizer_decoder import (
    ByteFallback,
    ByteLevel,
    Pieces,
    RawBytes,
    Unknown,
    Words,
    decoder_form,
)


class Detokenizer:
    """A stream of the text of one sequence of token ids.

    For any ids, the joined results of ``push`` and ``finish`` equal ``tokenizer.decode(ids)``.
    Byte-level decoders hold back an incomplete character. Clean-up holds back the start of a
    pattern such as " '". Byte fallback holds back its ``<0xNN>`` tokens until another kind of
    token, because one bad byte turns the whole run into U+FFFD. A decoder of an unknown form
    returns all its text at ``finish``.
    """

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        self._tokenizer = tokenizer
        self._source, self._stages = _follow(tokenizer)
        if tokenizer.clean_up_tokenization_spaces:
            self._stages += [Replacement(old, new) for old, new in CLEAN_UPS]

    def push(self, token_id: int) -> str:
        """Append an id; return the text that has become certain, often ""."""
        token = self._tokenizer.token(token_id)
        if token is None:
            return ""
        text = self._source.push(token)
        for stage in self._stages:
            text = stage.push(text)
        return text

    def finish(self) -> str:
        """Return the text that is still held back; do not push ids after this."""
        text = self._source.finish()
        for stage in self._stages:
            text = stage.push(text) + stage.finish()
        return text

    def held(self) -> str:
        """Return the text that ``finish`` would return now."""
        text = self._source.fork().finish()
        for stage in self._stages:
            text = stage.rest(text)
        return text

    def fork(self) -> Detokenizer:
        """Return an independent copy."""
        twin = object.__new__(Detokenizer)  # not by `__init__`, which reads the configuration
        twin._tokenizer = self._tokenizer
        twin._source = self._source.fork()
        twin._stages = [stage.fork() for stage in self._stages]
        return twin


def _follow(tokenizer: AnyTokenizer) -> tuple[Stage, list[Stage]]:
    """Return the stage that turns tokens into text, and the stages after it."""
    match decoder_form(tokenizer):
        case RawBytes():
            return stages.Utf8(), []
        case Pieces():
            return stages.Spaced(), [stages.Stripped()]
        case ByteLevel():
            return stages.Bytes(), []
        case Words(join):
            return stages.RenderedTokens(join), []
        case ByteFallback(old, new, stripped, count):
            strip = [stages.LeadingStrip(stripped, count)] if stripped else []
            return stages.ByteRuns(old, new), [*strip]
        case Unknown(join=join):
            return stages.Whole(join), []
