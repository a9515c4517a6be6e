"""What a generation, or a text that is scored, gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["eos", "length", "stop"]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds from the call's start, the tokenizer's work included."""

    first_token_s: float  # until the first new token of this text was known
    total_s: float  # until its last one was


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """One generated text."""

    text: str  # without the prompt, without special tokens
    token_ids: tuple[int, ...]  # without the prompt, with the end-of-sequence token if there is one
    finish_reason: (
        FinishReason  # eos: the model ended it; length: a limit; stop: kept for stop strings
    )
    prompt_tokens: int
    generated_tokens: int
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class Score:
    """How probable a model finds a text."""

    token_ids: tuple[int, ...]
    log_probabilities: tuple[float | None, ...]  # natural, one a token; None: nothing predicts it

    @property
    def total(self) -> float:
        """The log-probability of all tokens that are predicted."""
        return sum(value for value in self.log_probabilities if value is not None)
