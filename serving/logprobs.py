"""Log-probabilities in OpenAI's form, with the text and the place of each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from ..runtime.errors import OptionError
from ..runtime.results import TopLogprobs
from ..runtime.text.byte_tokenizer import AnyTokenizer
from ..runtime.text.detokenizer import Detokenizer
from ..runtime.text.token_bytes import TokenBytes, token_bytes_of

LOWEST = -9999.0  # in place of -inf, which JSON does not have; OpenAI uses the same


class Token(NamedTuple):
    """A token with its log-probability."""

    spelling: bytes
    logprob: float | None  # None: the first token of a prompt
    top: Sequence[tuple[bytes, float]]  # the most probable tokens at its position
    offset: int  # characters of the text before it


def token_speller(tokenizer: AnyTokenizer) -> Callable[[int], bytes]:
    """Return a function that returns the bytes of a token, or the name of a special token."""
    spelling: TokenBytes | None = None
    with suppress(OptionError):  # a decoder of an unknown form
        spelling = token_bytes_of(tokenizer)

    @cache  # a vocabulary is small, and answers have the same tokens again and again
    def spell(token_id: int) -> bytes:
        token = tokenizer.token(token_id)
        if token is None:
            return (tokenizer.special_token(token_id) or "").encode()
        return token.encode() if spelling is None else spelling(token)[1]

    return spell


def readable(spelling: bytes) -> str:
    """Return the text of a token; a part of a character is written as ``bytes:\\xe2\\x80``."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)


class TokenLogprobs:
    """The tokens of one text; those whose text is known are taken out for a response.

    ``offset``: the characters before the text.
    """

    def __init__(self, tokenizer: AnyTokenizer, spell: Callable[[int], bytes], offset: int) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._spell = spell
        self._offset = offset
        self._tokens: list[Token] = []

    def extend(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[float | None],
        top_logprobs: Sequence[TopLogprobs | None],
    ) -> None:
        """Append several tokens; the sequences have an entry for each."""
        for token in zip(token_ids, logprobs, top_logprobs, strict=True):
            self.push(*token)

    def push(self, token_id: int, logprob: float | None, top: TopLogprobs | None) -> None:
        """Add the next token."""
        others = [] if top is None else [(self._spell(other), value) for other, value in top]
        self._tokens.append(Token(self._spell(token_id), logprob, others, self._offset))
        self._offset += len(self._detokenizer.push(token_id))

    def take(self, before: int | None = None) -> list[Token]:
        """Take the tokens that begin before the character ``before``; None: all."""
        if before is None:
            found, self._tokens = self._tokens, []
            return found
        found = [token for token in self._tokens if token.offset < before]
        self._tokens = self._tokens[len(found) :]
        return found


def completion_logprobs(tokens: Sequence[Token], count: int) -> dict[str, Any]:
    """Return the tokens in the form of completions; ``count``: the request's ``logprobs``."""
    return {
        "tokens": [readable(token.spelling) for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_top(token) for token in tokens] if count else None,
        "text_offset": [token.offset for token in tokens],
    }


def _top(token: Token) -> dict[str, float | None] | None:
    """Return the most probable tokens and the chosen one, as OpenAI does; None for the first."""
    if token.logprob is None:
        return None
    found: dict[str, float | None] = {}
    for spelling, logprob in (*token.top, (token.spelling, token.logprob)):
        found.setdefault(readable(spelling), _finite(logprob))
    return found


def chat_logprobs(tokens: Sequence[Token], count: int) -> dict[str, Any]:
    """Return the tokens in the form of chats; ``count``: the request's ``top_logprobs``."""
    return {
        "content": [
            {
                **_chat_token(token.spelling, token.logprob),
                "top_logprobs": [_chat_token(*other) for other in token.top[:count]],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _chat_token(spelling: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": readable(spelling), "logprob": _finite(logprob), "bytes": list(spelling)}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LOWEST)
