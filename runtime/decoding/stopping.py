"""The rules that end a text, in one place for all strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..results import FinishReason


class Matcher(Protocol):
    """A matcher that reads the new text of one sequence and finds stop strings in it."""

    def push(self, token: int) -> bool:
        """Take the next token; return whether the new text contains a stop string."""

    def fork(self) -> Matcher:
        """Return an independent copy."""


class Stopping(NamedTuple):
    """The rules that end a text: end-of-sequence tokens, stop strings, a limit of new tokens."""

    eos_token_ids: frozenset[int]
    new_matcher: Callable[[int], Matcher] | None = None  # takes a prompt's index

    def matcher(self, prompt: int) -> Matcher | None:
        """Return a new matcher for a text of ``prompt``; None without stop strings."""
        return None if self.new_matcher is None else self.new_matcher(prompt)

    def reason(
        self,
        token: int,
        new_tokens: int,
        limit: int,
        matcher: Matcher | None = None,
        interrupt: FinishReason | None = None,
    ) -> FinishReason | None:
        """Return why the text ends with ``token``; None if it continues.

        ``new_tokens``: the number of new tokens, including ``token``.
        """
        stopped = matcher is not None and matcher.push(token)
        if token in self.eos_token_ids:
            return "eos"
        if stopped:
            return "stop"
        return "length" if new_tokens >= limit else interrupt
