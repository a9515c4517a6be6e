"""``POST /v1/completions``: continue a prompt, or answer it with an encoder-decoder model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..runtime.model import Model
from ..runtime.request.prompts import check_ids, encode_prompt
from ..runtime.results import FinishReason, GenerationResult, Score
from .answers import Answer, finish_reason
from .errors import ApiError, bad_field
from .fields import Fields
from .generating import Generation, Services
from .logprobs import Token, TokenLogprobs, completion_logprobs
from .models import ServedModel
from .options import OWN, Call, check_stream, read_call
from .settings import Settings
from .streams import EventStream
from .strict_json import encode_json
from .work import Job

MAX_TOKENS = 16  # OpenAI's default
MOST_LOGPROBS = 5
FIELDS = (
    *("model", "prompt", "max_tokens", "temperature", "top_p", "n", "best_of", "echo", "logprobs"),
    *("logit_bias", "stop", "presence_penalty", "frequency_penalty", "seed", "stream"),
    *("stream_options", "user"),
)
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
        fields,
        settings,
        vocabulary=served.model.bundle.manifest.dimensions.vocabulary,
        max_tokens=MAX_TOKENS,
        prompts=len(prompts),
        has_best_of=True,
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
    answer = _Answer(generation, asked, texts, scores)
    if asked.call.stream:
        return EventStream(answer.chunks(await generation.begin()), job, settings.stall_s)
    results, generated = await generation.results()
    return await services.threads.build(lambda: encode_json(answer.body(results, generated)))


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


class _Answer(Answer):
    """The answer in the form of OpenAI's completions."""

    PREFIX = "cmpl"
    OBJECT = CHUNK = "text_completion"

    def __init__(
        self,
        generation: Generation,
        asked: Completion,
        texts: Sequence[str],
        scores: Sequence[Score],
    ) -> None:
        super().__init__(generation)
        self._asked = asked
        self._texts = texts
        self._scores = scores

    def body(self, results: Sequence[GenerationResult], generated: int) -> dict[str, Any]:
        """Return the body of the answer to ``results``, ``n`` for each prompt.

        ``generated``: the number of new tokens.
        """
        choices = []
        echoed_tokens = [self._prompt_tokens(prompt) for prompt in range(len(self._texts))]
        for index, result in enumerate(results):
            echoed = self._texts[result.prompt_index] if self._asked.echo else ""
            tokens = self._new_tokens(index)
            known = None
            if tokens is not None:
                tokens.extend(result.token_ids, result.logprobs or (), result.top_logprobs or ())
                end = self._end(result.prompt_index, len(result.text), result.finish_reason)
                known = [*echoed_tokens[result.prompt_index], *tokens.take(end)]
            choice = self._choice(index, echoed + result.text, result.finish_reason, known)
            if result.choices is not None:
                choice["probabilities"] = [
                    {"text": each.text, "probability": each.probability, "logprob": each.logprob}
                    for each in result.choices
                ]
            choices.append(choice)
        return {**self._head(self.OBJECT, choices), "usage": self._usage(generated)}

    async def _opening(self, count: int) -> AsyncIterator[dict[str, Any]]:
        """Yield the prompts, if they are to be repeated."""
        threads = self._generation.services.threads
        for index in range(count) if self._asked.echo else ():
            yield await threads.build(partial(self._echo, index))

    def _echo(self, index: int) -> dict[str, Any]:
        prompt = self._prompt_of(index)
        known = None if self._asked.logprobs is None else self._prompt_tokens(prompt)
        return self._choice(index, self._texts[prompt], None, known)

    def _piece(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: TokenLogprobs | None,
        length: int,
    ) -> dict[str, Any]:
        end = self._end(self._prompt_of(index), length, reason)
        return self._choice(index, text, reason, None if tokens is None else tokens.take(end))

    def _prompt_of(self, index: int) -> int:
        """Return the index of the prompt of a choice."""
        return index // self._asked.call.n

    def _prompt_tokens(self, prompt: int) -> list[Token]:
        """Return the tokens of an echoed prompt; none if their log-probabilities are not asked."""
        if not self._scores:
            return []
        found = TokenLogprobs(self._served.model.tokenizer, self._served.spell, 0)
        score = self._scores[prompt]
        found.extend(score.token_ids, score.log_probabilities, score.top_logprobs or ())
        return found.take()

    def _new_tokens(self, index: int) -> TokenLogprobs | None:
        if self._asked.logprobs is None or "choices" in self._asked.call.options:
            return None
        before = self._before(self._prompt_of(index))
        return TokenLogprobs(self._served.model.tokenizer, self._served.spell, before)

    def _before(self, prompt: int) -> int:
        """Return the number of characters before the new text, as OpenAI counts offsets."""
        has_encoder = self._served.model.bundle.manifest.has_encoder
        return 0 if has_encoder else len(self._texts[prompt])

    def _end(self, prompt: int, length: int, reason: FinishReason | None) -> int | None:
        """Return the character before which tokens are shown; None for all of them.

        Tokens of a stop string are not shown, but an end-of-sequence token is.
        """
        if reason is not None and reason != "stop":
            return None
        return length + self._before(prompt)

    def _choice(
        self, index: int, text: str, reason: FinishReason | None, tokens: Sequence[Token] | None
    ) -> dict[str, Any]:
        count = self._asked.logprobs or 0
        return {
            "index": index,
            "text": text,
            "logprobs": None if tokens is None else completion_logprobs(tokens, count),
            "finish_reason": finish_reason(reason),
        }
