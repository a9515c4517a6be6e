"""``POST /v1/completions``: continue a prompt, or answer it with an encoder-decoder model."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..runtime.errors import EdgeseqError
from ..runtime.model import Model
from ..runtime.request.prompts import check_ids, encode_prompt
from ..runtime.results import FinishReason, GenerationResult, Score, StreamEvent
from .errors import ApiError, api_error, bad_field, encode_json
from .fields import Fields
from .generating import Generation, Services
from .logprobs import Token, TokenLogprobs, completion_logprobs
from .models import ServedModel
from .options import OWN, Call, check_stream, read_call
from .settings import Settings
from .streams import DONE, EventStream, comment, event
from .work import Job, Threads

MAX_TOKENS = 16  # OpenAI's default
MOST_LOGPROBS = 5
FIELDS = (
    *("model", "prompt", "max_tokens", "temperature", "top_p", "n", "best_of", "echo", "logprobs"),
    *("logit_bias", "stop", "presence_penalty", "frequency_penalty", "seed", "stream"),
    *("stream_options", "user"),
)
READING = "reading the prompt"
Prompt = str | list[int]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The fields of a request for completions."""

    prompts: Sequence[Prompt]
    echo: bool
    logprobs: int | None
    call: Call


def read_completion(fields: Fields, served: ServedModel, settings: Settings) -> Completion:
    """Take all fields; raise ``ApiError`` for a bad one."""
    if "suffix" in fields:
        raise bad_field("suffix", "suffix has no effect: the models only continue a prompt.")
    prompts = _prompts(fields)
    echo = fields.flag("echo")
    logprobs = fields.integer("logprobs", 0, MOST_LOGPROBS)
    call = read_call(
        fields, settings, max_tokens=MAX_TOKENS, prompts=len(prompts), has_best_of=True
    )
    fields.finish((*FIELDS, *OWN))
    check_stream(call, has_logprobs=logprobs is not None)
    if echo and logprobs is not None and served.model.bundle.manifest.has_encoder:
        raise bad_field(
            "echo",
            "echo has no effect with logprobs and an encoder-decoder model, which predicts no "
            "tokens of its prompt: leave one of them out.",
        )
    return Completion(prompts=prompts, echo=echo, logprobs=logprobs, call=call)


def _prompts(fields: Fields) -> list[Prompt]:
    """Take the prompt: a text, token ids, or a list of either."""
    given = fields.take("prompt")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(type(item) is int for item in given):
            return [given]
        if all(isinstance(item, str) for item in given):
            return given
        if all(isinstance(ids, list) and all(type(i) is int for i in ids) for ids in given):
            return given
    what = "prompt is missing" if given is None else f"prompt is {given!r:.60}"
    raise bad_field(
        "prompt", f"{what}; it must be a string, a list of token ids, or a list of either."
    )


def encoded_prompts(model: Model, prompts: Sequence[Prompt], settings: Settings) -> list[list[int]]:
    """Return the token ids of all prompts; raise ``ApiError`` if there are too many tokens."""
    found = []
    vocabulary = model.bundle.manifest.dimensions.prompt_vocabulary
    for prompt in prompts:
        if isinstance(prompt, str):
            ids = encode_prompt(model.tokenizer, prompt)
        else:
            ids = prompt
            check_ids("The prompt", ids, vocabulary)
        check_length(ids, settings)
        found.append(ids)
    return found


def check_length(ids: Sequence[int], settings: Settings) -> None:
    """Raise ``ApiError`` for more tokens than the limit."""
    if len(ids) > settings.max_prompt_tokens:
        raise ApiError(
            400,
            f"The prompt has {len(ids)} tokens; the limit is {settings.max_prompt_tokens}: shorten "
            "it.",
            param="prompt",
            code="context_length_exceeded",
        )


async def complete(
    services: Services, served: ServedModel, fields: Fields, job: Job
) -> bytes | EventStream:
    """Return the answer's JSON, or its stream."""
    settings, model = services.settings, served.model
    asked = read_completion(fields, served, settings)
    prompts, texts = await services.threads.check(
        lambda: _prepare(model, asked, settings), settings.constraint_s
    )
    generation = Generation(
        services=services,
        served=served,
        job=job,
        prompts=prompts,
        call=asked.call,
        logprobs=asked.logprobs,
    )
    scores: list[Score] = []
    if asked.echo and asked.logprobs is not None:
        count = asked.logprobs
        served.queue.enter(job)
        async with served.queue.slot(job, len(prompts)):
            scores = await services.threads.run(job, lambda: _scores(model, prompts, count, job))
    answer = _Answer(served, generation, asked, texts, scores)
    if asked.call.stream:
        chunks = answer.chunks(await generation.begin(), services.threads)
        return EventStream(chunks, job, settings.stall_s)
    results = await generation.results()
    return await services.threads.build(lambda: encode_json(answer.body(results)))


def _prepare(
    model: Model, asked: Completion, settings: Settings
) -> tuple[list[list[int]], list[str]]:
    """Return the token ids of the prompts, and their texts, which are needed for offsets."""
    prompts = encoded_prompts(model, asked.prompts, settings)
    if not asked.echo and asked.logprobs is None:
        return prompts, [""] * len(prompts)
    pairs = zip(asked.prompts, prompts, strict=True)
    return prompts, [
        text if isinstance(text, str) else model.tokenizer.decode(ids) for text, ids in pairs
    ]


def _scores(model: Model, prompts: Sequence[Sequence[int]], count: int, job: Job) -> list[Score]:
    """Return the scores of the prompts; raise ``ApiError`` if the job is over before the last."""
    found = []
    for ids in prompts:
        if job.is_over():
            raise ApiError(
                503,
                "The prompts took longer than the limit of time: send fewer or shorter ones.",
                code="timeout",
            )
        found.append(model.score_ids(ids, logprobs=count))
    return found


class _Answer:
    """The answer to a request: its body, or the chunks of its stream."""

    def __init__(
        self,
        served: ServedModel,
        generation: Generation,
        asked: Completion,
        texts: Sequence[str],
        scores: Sequence[Score],
    ) -> None:
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._served = served
        self._generation = generation
        self._asked = asked
        self._texts = texts
        self._scores = scores

    def body(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        """Return the body of the answer to ``results``, ``n`` for each prompt."""
        choices = []
        echoed_tokens = [self._prompt_tokens(prompt) for prompt in range(len(self._texts))]
        for index, result in enumerate(results):
            echoed = self._texts[result.prompt_index] if self._asked.echo else ""
            tokens = self._new_tokens(result.prompt_index)
            if tokens is not None and result.logprobs is not None:
                tokens.extend(result.token_ids, result.logprobs, result.top_logprobs or ())
            end = self._end(result.prompt_index, len(result.text), result.finish_reason)
            known = None
            if tokens is not None:
                known = [*echoed_tokens[result.prompt_index], *tokens.take(end)]
            choice = self._choice(index, echoed + result.text, result.finish_reason, known)
            if result.choices is not None:
                choice["probabilities"] = [
                    {"text": each.text, "probability": each.probability, "logprob": each.logprob}
                    for each in result.choices
                ]
            choices.append(choice)
        generated = sum(result.generated_tokens for result in results)
        return {**self._head(choices), "usage": self._usage(generated)}

    async def chunks(
        self, events: AsyncGenerator[tuple[int, StreamEvent] | None], threads: Threads
    ) -> AsyncGenerator[bytes]:
        """Yield the server-sent events of a stream."""
        count = len(self._texts) * self._asked.call.n
        lengths, generated, is_read = [0] * count, 0, False
        tokens = [self._new_tokens(index // self._asked.call.n) for index in range(count)]
        if self._asked.echo:
            for index in range(count):
                yield await threads.build(partial(self._echo, index))
        yield comment(READING)
        try:
            async with aclosing(events):
                async for found in events:
                    if found is None:
                        yield comment("generating" if is_read else READING)
                        continue
                    is_read = True
                    index, new = found
                    lengths[index] += len(new.text)
                    generated += len(new.token_ids)
                    kept = tokens[index]
                    if kept is not None:
                        kept.extend(new.token_ids, new.logprobs or (), new.top_logprobs or ())
                    if not new.text and new.finish_reason is None:
                        continue
                    end = self._end(index // self._asked.call.n, lengths[index], new.finish_reason)
                    taken = None if kept is None else kept.take(end)
                    choice = self._choice(index, new.text, new.finish_reason, taken)
                    yield event(self._head([choice]))
        except (ApiError, EdgeseqError) as error:
            found_error = error if isinstance(error, ApiError) else api_error(error)
            yield event(found_error.body)
            return
        if self._asked.call.include_usage:
            yield event({**self._head([]), "usage": self._usage(generated)})
        yield DONE

    def _echo(self, index: int) -> bytes:
        """Return the event that repeats the prompt in choice ``index``."""
        prompt = index // self._asked.call.n
        known = None if self._asked.logprobs is None else self._prompt_tokens(prompt)
        return event(self._head([self._choice(index, self._texts[prompt], None, known)]))

    def _prompt_tokens(self, prompt: int) -> list[Token]:
        """Return the tokens of an echoed prompt; none if their log-probabilities are not asked."""
        if not self._scores:
            return []
        found = TokenLogprobs(self._served.model.tokenizer, self._served.spell, 0)
        score = self._scores[prompt]
        found.extend(score.token_ids, score.log_probabilities, score.top_logprobs or ())
        return found.take()

    def _new_tokens(self, prompt: int) -> TokenLogprobs | None:
        """Return the log-probabilities of a text, still empty; None if they are not asked."""
        if self._asked.logprobs is None or "choices" in self._asked.call.options:
            return None
        has_encoder = self._served.model.bundle.manifest.has_encoder
        before = 0 if has_encoder else len(self._texts[prompt])
        return TokenLogprobs(self._served.model.tokenizer, self._served.spell, before)

    def _end(self, prompt: int, length: int, reason: FinishReason | None) -> int | None:
        """Return the character before which tokens are shown; None for all of them.

        Tokens of a stop string are not shown, but an end-of-sequence token is.
        """
        if reason is not None and reason != "stop":
            return None
        has_encoder = self._served.model.bundle.manifest.has_encoder
        return length + (0 if has_encoder else len(self._texts[prompt]))

    def _choice(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: Sequence[Token] | None,
    ) -> dict[str, Any]:
        count = self._asked.logprobs or 0
        known = None if tokens is None else completion_logprobs(tokens, count)
        return {
            "index": index,
            "text": text,
            "logprobs": known,
            "finish_reason": finish_reason(reason),
        }

    def _head(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._served.name,
            "choices": choices,
        }
        return {**head, "usage": None} if self._asked.call.include_usage else head

    def _usage(self, generated: int) -> dict[str, int]:
        return usage(sum(map(len, self._generation.prompts)), generated)


def finish_reason(reason: FinishReason | None) -> str | None:
    """Return OpenAI's word for the end of a text: "stop" or "length"."""
    if reason is None:
        return None
    return "stop" if reason in ("eos", "stop") else "length"


def usage(prompt: int, generated: int) -> dict[str, int]:
    """Return the numbers of tokens in OpenAI's form."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
    }
