"""When a text ends. The one place that knows."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.runtime.results import FinishReason


@dataclass(frozen=True)
class Stopping:
    """Ends a text at an end-of-sequence token or at its limit of new tokens."""

    eos_token_ids: frozenset[int]

    def reason(self, token: int, new_tokens: int, limit: int) -> FinishReason | None:
        """Why the text ends with ``token``, its ``new_tokens``-th new one; None if it goes on."""
        if token in self.eos_token_ids:
            return "eos"
        return "length" if new_tokens >= limit else None
