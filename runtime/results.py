"""What a generation, or a text that is scored, gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# eos: the model ended it; length: a limit; stop: a stop string, or the end of a choice;
# time: max_time; cancelled: the caller did
FinishReason = Literal["eos", "length", "stop", "time", "cancelled"]
TopLogprobs = tuple[tuple[int, float], ...]  # token ids and natural logs, the most probable first


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds from the call's start, the tokenizer's work included."""

    first_token_s: float  # until the first new token of this text was known
    total_s: float  # until its last one was


@dataclass(frozen=True, kw_only=True)
class ChoiceProbability:
    """How probable one of the only possible outputs is."""

    text: str
    probability: float  # among the choices
    logprob: float  # natural log of its probability by itself


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """One generated text."""

    text: str  # without the prompt, special tokens and all from a stop string on
    token_ids: tuple[int, ...]  # without the prompt, with the end-of-sequence token if there is one
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    timings: Timings
    prompt_index: int = 0  # which of the call's prompts it belongs to
    sequence_score: float | None = None  # of beam search: what hypotheses are ranked by
    logprobs: tuple[float, ...] | None = None  # the model's, natural, one a token; if asked for
    top_logprobs: tuple[TopLogprobs, ...] | None = None  # the most probable at each place
    choices: tuple[ChoiceProbability, ...] | None = None  # of ``choices``, the most probable first


@dataclass(frozen=True, kw_only=True)
class Score:
    """How probable a model finds a text."""

    token_ids: tuple[int, ...]
    log_probabilities: tuple[float | None, ...]  # natural, one a token; None: nothing predicts it

    @property
    def total(self) -> float:
        """The log-probability of all tokens that are predicted."""
        return sum(value for value in self.log_probabilities if value is not None)
