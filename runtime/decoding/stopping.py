"""When a text ends. The one place that knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..results import FinishReason


class Matcher(Protocol):
    """Follows the new text of one sequence and says when a stop string is in it."""

    def push(self, token: int) -> bool:
        """Take the next token; whether a stop string is complete now."""

    def fork(self) -> Matcher:
        """An independent copy."""


class Stopping(NamedTuple):
    """Ends a text at an end-of-sequence token, a stop string or its limit of new tokens."""

    eos_token_ids: frozenset[int]
    new_matcher: Callable[[int], Matcher] | None = None  # of a prompt's index, for stop strings

    def matcher(self, prompt: int) -> Matcher | None:
        """What follows a text for stop strings; None where there are none."""
        return None if self.new_matcher is None else self.new_matcher(prompt)

    def reason(
        self,
        token: int,
        new_tokens: int,
        limit: int,
        matcher: Matcher | None = None,
        interrupt: FinishReason | None = None,
    ) -> FinishReason | None:
        """Why the text ends with ``token``, its ``new_tokens``-th new one; None if it goes on."""
        stopped = matcher is not None and matcher.push(token)
        if token in self.eos_token_ids:
            return "eos"
        if stopped:
            return "stop"
        return "length" if new_tokens >= limit else interrupt
