"""The results of generation and of scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# eos: the model ended the text; length: the limit of tokens; stop: a stop string or the end of a
# choice; time: max_time; cancelled: the caller ended the text
FinishReason = Literal["eos", "length", "stop", "time", "cancelled"]
TopLogprobs = tuple[tuple[int, float], ...]  # (id, natural log-probability), best first


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds since the start of the call; tokenization is included."""

    first_token_s: float  # time to first token of this text
    total_s: float  # time to the last token of this text


@dataclass(frozen=True, kw_only=True)
class ChoiceProbability:
    """The probability of one of the ``choices``."""

    text: str
    probability: float  # relative to the other choices: all of them sum to 1
    logprob: float  # natural log-probability, not relative


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """One generated text."""

    text: str  # new text without special tokens, cut off before a stop string
    token_ids: tuple[int, ...]  # new tokens, with the end-of-sequence token if there is one
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    timings: Timings
    prompt_index: int = 0  # index of the text's prompt in the call
    sequence_score: float | None = None  # the score that ranks hypotheses; only with beam search
    # Natural log-probability of each token, before processors; None unless requested
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[TopLogprobs, ...] | None = None  # the most probable tokens at each step
    choices: tuple[ChoiceProbability, ...] | None = None  # all ``choices``, most probable first


@dataclass(frozen=True, kw_only=True)
class Score:
    """The log-probability of each token of a text."""

    token_ids: tuple[int, ...]
    # Natural log-probability of each token; None: not predicted
    log_probabilities: tuple[float | None, ...]

    @property
    def total(self) -> float:
        """The log-probability of all predicted tokens together."""
        return sum(value for value in self.log_probabilities if value is not None)
