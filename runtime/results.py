"""The results of generation and of scoring."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

# eos: the model ended the text; length: the limit of tokens; stop: a stop string, or the end of a
# choice; time: the limit of time (max_time); cancelled: the caller's ``cancel``
FinishReason = Literal["eos", "length", "stop", "time", "cancelled"]
TopLogprobs = tuple[tuple[int, float], ...]  # (id, natural log-probability), best first


@dataclass(frozen=True, kw_only=True)
class Timings:
    """The time of one text, in seconds since the start of the call, including tokenization.

    Attributes:
        first_token_s: Time to the first token of this text.
        total_s: Time to the last token of this text.
    """

    first_token_s: float
    total_s: float


@dataclass(frozen=True, kw_only=True)
class ChoiceProbability:
    """The probability of one of the ``choices``.

    Attributes:
        text: The choice.
        probability: The probability relative to the other choices; all of them add up to 1.
        logprob: The natural log-probability of the choice after the prompt, not relative.
    """

    text: str
    probability: float
    logprob: float


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """One generated text.

    Attributes:
        text: The new text, without the prompt and special tokens, cut off before a stop string.
        token_ids: The new tokens, including the end-of-sequence token and the tokens of a stop
            string.
        finish_reason: The reason for the end of the text: "eos" for an end-of-sequence token,
            "length" for the limit of tokens, "stop" for a stop string or the end of a choice,
            "time" for ``max_time``, "cancelled" for ``cancel``.
        prompt_tokens: The number of tokens of the prompt.
        generated_tokens: The number of new tokens.
        truncated_tokens: The number of tokens that the option ``truncation`` removed from the
            prompt; ``prompt_tokens`` does not count them.
        timings: The time to the first and to the last token.
        prompt_index: The index of the prompt in the call.
        sequence_score: With beam search, the score that ranks the hypotheses: the sum of the
            tokens' log-probabilities after all logits processors, divided by the length to the
            power of ``length_penalty``. Otherwise None.
        logprobs: With the option ``logprobs``, the natural log-probability of each new token by the
            model itself, without logits processors. Otherwise None.
        top_logprobs: With the option ``logprobs``, for each new token the most probable tokens at
            its position as pairs of token id and natural log-probability, the most probable first.
            Otherwise None.
        choices: With ``choices``, all choices and their probabilities, the most probable first;
            empty if the call was cancelled. Otherwise None.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    timings: Timings
    truncated_tokens: int = 0
    prompt_index: int = 0
    sequence_score: float | None = None
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[TopLogprobs, ...] | None = None
    choices: tuple[ChoiceProbability, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class StreamEvent:
    """New tokens of one text of a stream, and the text that they make certain.

    Attributes:
        index: The index of the text in the list that ``generate_ids`` would return.
        text: The piece of text that has become certain, often "". The joined pieces of a text equal
            the text of its ``GenerationResult``.
        token_ids: The new tokens, including the end-of-sequence token and the tokens of a stop
            string. With greedy search and sampling there is one event for each token.
        finish_reason: In the last event of a text, the reason for its end, as in
            ``GenerationResult``. Otherwise None.
        logprobs: With the option ``logprobs``, the natural log-probability of each of the tokens.
            Otherwise None.
        top_logprobs: With the option ``logprobs``, for each of the tokens the most probable tokens
            at its position, as in ``GenerationResult``. Otherwise None.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[TopLogprobs, ...] | None = None


class TextStream(Iterator[str]):
    """The pieces of one text, as an iterator; ``Model.stream`` returns one.

    Args:
        pieces: The generator of the pieces, which returns the result at its end.

    Attributes:
        result: Once the last piece is read, what ``generate`` would return, with the finish reason
            and the numbers of tokens. Its timings include the time that the reader took. Before
            that, after an error and after ``close`` it is None.
    """

    def __init__(self, pieces: Generator[str, None, GenerationResult]) -> None:
        self._pieces = pieces
        self.result: GenerationResult | None = None

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.result = end.value if self.result is None else self.result
            raise

    def close(self) -> None:
        """End the work early."""
        self._pieces.close()


class AsyncTextStream(AsyncIterator[str]):
    """The pieces of one text, as an asynchronous iterator; ``Model.astream`` returns one.

    Args:
        pieces: The asynchronous generator of the pieces.
        result: The function that returns ``result``.
    """

    def __init__(
        self, pieces: AsyncGenerator[str], result: Callable[[], GenerationResult | None]
    ) -> None:
        self._pieces = pieces
        self._result = result

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """End the work early."""
        await self._pieces.aclose()

    @property
    def result(self) -> GenerationResult | None:
        """Once the last piece is read, what ``generate`` would return, as in ``TextStream``."""
        return self._result()


@dataclass(frozen=True, kw_only=True)
class Score:
    """The log-probability of each token of a text.

    Attributes:
        token_ids: The tokens of the text.
        log_probabilities: The natural log-probability of each token, given the tokens before it;
            None for the first token of a decoder-only model, which is not predicted.
        top_logprobs: From ``Model.score_ids``, for each token the most probable tokens at its
            position as pairs of token id and natural log-probability, the most probable first; None
            for the first token. Otherwise None.
    """

    token_ids: tuple[int, ...]
    log_probabilities: tuple[float | None, ...]
    top_logprobs: tuple[TopLogprobs | None, ...] | None = None

    @property
    def total(self) -> float:
        """The natural log-probability of all predicted tokens together, the sum of the values."""
        return sum(value for value in self.log_probabilities if value is not None)
