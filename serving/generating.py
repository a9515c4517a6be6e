"""One request's generation: results for an answer, or events for a stream, of all its texts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from statistics import mean
from typing import Any

from ..runtime.model import Model
from ..runtime.request.controls import GUIDES
from ..runtime.results import GenerationResult, StreamEvent, Timings
from .errors import ApiError
from .metrics import Metrics
from .models import ServedModel
from .options import Call
from .settings import Settings
from .work import Job, Threads

EARLY = ("cancelled", "time")  # finish reasons of texts that something else ended


@dataclass(frozen=True, kw_only=True)
class Services:
    """What all requests of an application share."""

    settings: Settings
    threads: Threads
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A request's prompts and what to generate for them.

    ``logprobs``: the most probable tokens to return at each position; None: no log-probabilities.
    """

    services: Services
    served: ServedModel
    job: Job
    prompts: Sequence[Sequence[int]]
    call: Call
    logprobs: int | None

    @property
    def model(self) -> Model:
        """The model, whose defaults are only its special tokens."""
        return self.served.model

    @property
    def texts(self) -> int:
        """The number of texts or beams that are generated at the same time."""
        return len(self.prompts) * max(self.call.generated, self.call.beams)

    async def results(self) -> tuple[list[GenerationResult], int]:
        """Return ``n`` results for each prompt, in their order, and the number of new tokens.

        The tokens of all ``best_of`` texts count, as in OpenAI's API.
        """
        found = await self._all_results()
        is_cancelled = any(result.finish_reason in EARLY for result in found)
        if "choices" in self.call.options and is_cancelled:
            raise ApiError(
                503,
                "The choices took longer than the limit of time: send fewer or shorter ones.",
                code="timeout",
            )
        by_prompt: list[list[GenerationResult]] = [[] for _ in self.prompts]
        for result in found:
            by_prompt[result.prompt_index].append(result)
        best = [result for texts in by_prompt for result in self._best(texts)]
        counted = best if self.call.is_deterministic else found
        return best, sum(result.generated_tokens for result in counted)

    async def _all_results(self) -> list[GenerationResult]:
        job, metrics, name = self.job, self.services.metrics, self.served.name
        if self.call.max_tokens == 0:
            copies = range(self.call.generated)
            return [_empty(i, prompt) for i, prompt in enumerate(self.prompts) for _ in copies]
        self.served.queue.enter(job)
        if any(name in self.call.options for name in GUIDES):
            await self._checked_events()  # a constraint is compiled within its limit of time
        try:
            async with self.served.queue.slot(job, self.texts):
                waited_s = time.monotonic() - job.began_s
                found = await self.services.threads.run(job, self._generate)
        except (asyncio.CancelledError, ApiError):  # the client has left, or the time is over
            metrics.cancelled[name] += 1
            raise
        metrics.first_token.observe(name, waited_s + min(r.timings.first_token_s for r in found))
        metrics.cancelled[name] += any(result.finish_reason in EARLY for result in found)
        self.count(sum(result.generated_tokens for result in found))
        return found

    def _generate(self) -> list[GenerationResult]:
        return self.model.generate_ids(self.prompts, **self._options())

    def _options(self) -> dict[str, Any]:
        call = self.call
        options = {**call.options, "cancel": self.job.is_over}
        if "choices" in options:
            return options
        options["max_new_tokens"] = call.max_tokens
        if call.generated > 1:
            options["num_return_sequences"] = call.generated
        if self.logprobs is not None or call.best_of > call.n:
            options["logprobs"] = self.logprobs or 0
        return options

    def _best(self, texts: Sequence[GenerationResult]) -> Sequence[GenerationResult]:
        """Return ``n`` of a prompt's texts: those with the highest log-probability per token."""
        call = self.call
        if call.is_deterministic:
            return [*texts] * call.n
        if call.best_of == call.n:
            return texts
        return sorted(texts, key=lambda text: -mean(text.logprobs or [0.0]))[: call.n]

    async def begin(self) -> AsyncGenerator[tuple[int, StreamEvent] | None]:
        """Check the request; return its events, each with the index of its choice.

        There is a None after each time without an event, so that the stream can send a comment.
        Raises ``ApiError`` for a full queue, and an error of the runtime for a bad option.
        """
        self.served.queue.enter(self.job)
        if self.call.max_tokens == 0:
            return self._events(_empty_events(len(self.prompts) * self.call.generated))
        return self._events(await self._checked_events())

    async def _checked_events(self) -> Iterator[StreamEvent]:
        options = self._options()
        return await self.services.threads.check(
            lambda: self.model.stream_ids(self.prompts, **options),
            self.services.settings.constraint_s,
        )

    async def _events(
        self, events: Iterator[StreamEvent]
    ) -> AsyncGenerator[tuple[int, StreamEvent] | None]:
        job, metrics, name = self.job, self.services.metrics, self.served.name
        copies = self.call.n if self.call.is_deterministic else 1
        slot = self.served.queue.slot(job, self.texts)
        tokens, is_cancelled, has_ended_early = 0, True, False
        silence_s = self.services.settings.comment_s
        try:
            async with aclosing(
                self.services.threads.events(job, events, slot, silence_s)
            ) as found:
                async for event in found:
                    if event is None:
                        yield None
                        continue
                    if not tokens:
                        metrics.first_token.observe(name, time.monotonic() - job.began_s)
                    tokens += len(event.token_ids)
                    has_ended_early |= event.finish_reason in EARLY
                    for copy in range(copies):
                        yield event.index * copies + copy, event
            is_cancelled = has_ended_early
        finally:
            metrics.cancelled[name] += is_cancelled
            self.count(tokens)

    def count(self, generated: int) -> None:
        """Add the request's figures to the metrics."""
        metrics, name = self.services.metrics, self.served.name
        metrics.prompt_tokens[name] += sum(map(len, self.prompts))
        metrics.generated_tokens[name] += generated
        metrics.duration.observe(name, time.monotonic() - self.job.began_s)


def _empty(index: int, prompt: Sequence[int]) -> GenerationResult:
    """Return the result of a prompt without new tokens."""
    return GenerationResult(
        text="",
        token_ids=(),
        finish_reason="length",
        prompt_tokens=len(prompt),
        generated_tokens=0,
        timings=Timings(first_token_s=0.0, total_s=0.0),
        prompt_index=index,
        logprobs=(),
        top_logprobs=(),
    )


def _empty_events(texts: int) -> Iterator[StreamEvent]:
    for index in range(texts):
        yield StreamEvent(index=index, text="", token_ids=(), finish_reason="length")
