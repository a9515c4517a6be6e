"""The results of generation and of scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# eos: the model ended the text; length: the limit of tokens; stop: a stop string, or the end of a
# choice; time: max_time; cancelled: the caller ended the text
FinishReason = Literal["eos", "length", "stop", "time", "cancelled"]
TopLogprobs = tuple[tuple[int, float], ...]  # token ids and natural logs, the most probable first


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds since the start of the call; tokenization is included."""

    first_token_s: float  # time to first token of this text
    total_s: float  # until the last token of this text was known


@dataclass(frozen=True, kw_only=True)
class ChoiceProbability:
    """The probability of one of the ``choices``."""

    text: str
    probability: float  # relative to the other choices: all of them sum to 1
    logprob: float  # natural log of the model's own probability


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """One generated text."""

    text: str  # without the prompt and special tokens, cut off before a stop string
    token_ids: tuple[int, ...]  # without the prompt, with the end-of-sequence token if there is one
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    timings: Timings
    prompt_index: int = 0  # index of its prompt in the call
    sequence_score: float | None = None  # the score that ranks hypotheses; only with beam search
    logprobs: tuple[float, ...] | None = None  # the model's own, natural, one a token; if requested
    top_logprobs: tuple[TopLogprobs, ...] | None = None  # the most probable tokens at each step
    choices: tuple[ChoiceProbability, ...] | None = None  # all ``choices``, most probable first


@dataclass(frozen=True, kw_only=True)
class Score:
    """The log-probability of each token of a text."""

    token_ids: tuple[int, ...]
    log_probabilities: tuple[float | None, ...]  # natural, one a token; None: not predicted

    @property
    def total(self) -> float:
        """The log-probability of all predicted tokens together."""
        return sum(value for value in self.log_probabilities if value is not None)
