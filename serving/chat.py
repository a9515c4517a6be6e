"""``POST /v1/chat/completions``: the chat template turns messages into a prompt.

The template is the checkpoint's, in Jinja2's sandbox, with the functions that Transformers gives
templates. Source: ``transformers.utils.chat_template_utils`` (4.57.6).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, NoReturn

from ..runtime.bundle.manifest import ChatFormat
from ..runtime.errors import MissingPackageError, reason
from ..runtime.results import FinishReason, GenerationResult
from .answers import Answer, finish_reason
from .completions import check_length
from .errors import ApiError, bad_field
from .fields import Fields
from .generating import Generation, Services
from .logprobs import TokenLogprobs, chat_logprobs
from .models import ServedModel
from .options import OWN, check_stream, read_call
from .streams import EventStream
from .strict_json import encode_json
from .work import Job

ROLES = ("system", "developer", "user", "assistant", "tool")
MOST_LOGPROBS = 20
FIELDS = (
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n"),
    *("logprobs", "top_logprobs", "logit_bias", "stop", "presence_penalty", "frequency_penalty"),
    *("seed", "stream", "stream_options", "user", "response_format"),
)


class TemplateError(Exception):
    """The template has called ``raise_exception``."""


def render(chat: ChatFormat, messages: Sequence[dict[str, Any]]) -> str:
    """Return the prompt for the model's answer to ``messages``.

    Raises ``ApiError`` if the template refuses them, ``MissingPackageError`` without Jinja2.
    """
    try:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingPackageError(
            "Chat templates need Jinja2: install the extra 'server' "
            '(python -m pip install "edgeseq[cpu,server]").'
        ) from error

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        template = environment.from_string(chat.template)
        return template.render(
            messages=messages,
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **chat.special_tokens,
        )
    except TemplateError as error:
        raise bad_field("messages", f"The chat template refuses the messages: {error}.") from error
    except (jinja2.TemplateError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise bad_field(
            "messages", f"The chat template cannot be filled with the messages: {reason(error)}."
        ) from error


def _refuse(message: str) -> NoReturn:
    raise TemplateError(str(message).rstrip("."))


async def chat(
    services: Services, served: ServedModel, fields: Fields, job: Job
) -> bytes | EventStream:
    """Return the answer's JSON, or its stream."""
    settings, model = services.settings, served.model
    form = model.bundle.manifest.tokenizer.chat
    if form is None:
        raise ApiError(
            400,
            f"The model {served.name} has no chat template: use /v1/completions.",
            param="model",
            code="no_chat_template",
        )
    messages = _messages(fields)
    if "max_completion_tokens" in fields:
        if "max_tokens" in fields:
            raise bad_field("max_tokens", "max_tokens has no effect with max_completion_tokens.")
        limit = fields.integer("max_completion_tokens", 0, settings.max_tokens)
    else:
        limit = None
    wants = fields.flag("logprobs")
    top = fields.integer("top_logprobs", 0, MOST_LOGPROBS)
    if top is not None and not wants:
        raise bad_field("top_logprobs", "top_logprobs has no effect without logprobs: true.")
    _read_response_format(fields)
    default = settings.max_tokens if limit is None else limit
    call = read_call(
        fields,
        settings,
        vocabulary=model.bundle.manifest.dimensions.vocabulary,
        max_tokens=default,
        prompts=1,
        has_best_of=False,
    )
    fields.finish((*FIELDS, *OWN))
    check_stream(call, has_logprobs=wants)

    def encode() -> list[int]:
        ids = model.tokenizer.encode(render(form, messages), add_special_tokens=False)
        check_length(ids, settings)
        return ids

    prompt = await services.threads.check(encode, settings.constraint_s)
    generation = Generation(
        services=services,
        served=served,
        job=job,
        prompts=[prompt],
        call=call,
        logprobs=(top or 0) if wants else None,
    )
    answer = _Answer(generation)
    if call.stream:
        return EventStream(answer.chunks(await generation.begin()), job, settings.stall_s)
    results, generated = await generation.results()
    return await services.threads.build(lambda: encode_json(answer.body(results, generated)))


def _messages(fields: Fields) -> list[dict[str, Any]]:
    """Take the messages, with their parts of text joined."""
    given = fields.take("messages")
    if not isinstance(given, list) or not given:
        raise bad_field("messages", f"messages is {given!r:.60}; it must be a list of messages.")
    found = []
    for number, message in enumerate(given):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise bad_field("messages", f"{where} is {message!r:.60}; it must be an object.")
        role = message.get("role")
        if role not in ROLES:
            raise bad_field(
                "messages", f"{where}.role is {role!r:.60}; it must be {' or '.join(ROLES)}."
            )
        if unknown := sorted(message.keys() - {"role", "content", "name"}):
            raise bad_field(
                "messages", f"{where} has the unknown field {unknown[0]!r:.60}: remove it."
            )
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(_part(part, where) for part in content)
        if not isinstance(content, str):
            raise bad_field("messages", f"{where}.content is {content!r:.60}; it must be a text.")
        found.append({**message, "content": content})
    return found


def _part(part: Any, where: str) -> str:
    """Return the text of a part of a message's content."""
    if isinstance(part, dict) and part.get("type") == "text" and part.keys() == {"type", "text"}:
        text = part["text"]
        if isinstance(text, str):
            return text
    raise bad_field(
        "messages", f'{where}.content has the part {part!r:.60}; only {{"type": "text"}} is known.'
    )


def _read_response_format(fields: Fields) -> None:
    """Turn ``response_format`` into the option ``json_schema``, if it has a schema."""
    given = fields.take("response_format")
    if given is None or given == {"type": "text"}:
        return
    schema: Any = None
    if isinstance(given, dict) and given.get("type") == "json_object":
        schema = {"type": "object"}
    elif isinstance(given, dict) and given.get("type") == "json_schema":
        inner = given.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise bad_field(
            "response_format",
            f"response_format is {given!r:.60}; its type must be text, json_object, or json_schema "
            "with an object json_schema.schema.",
        )
    fields.put("json_schema", schema)


class _Answer(Answer):
    """The answer in the form of OpenAI's chats."""

    PREFIX = "chatcmpl"
    OBJECT, CHUNK = "chat.completion", "chat.completion.chunk"

    def body(self, results: Sequence[GenerationResult], generated: int) -> dict[str, Any]:
        """Return the body of the answer to ``results`` with ``generated`` new tokens."""
        choices = []
        for index, result in enumerate(results):
            tokens = self._new_tokens(index)
            if tokens is not None:
                tokens.extend(result.token_ids, result.logprobs or (), result.top_logprobs or ())
            end = len(result.text) if result.finish_reason == "stop" else None
            choices.append(
                {
                    "index": index,
                    "message": {"role": "assistant", "content": result.text, "refusal": None},
                    "logprobs": self._taken(tokens, end),
                    "finish_reason": finish_reason(result.finish_reason),
                }
            )
        return {**self._head(self.OBJECT, choices), "usage": self._usage(generated)}

    async def _opening(self, count: int) -> AsyncIterator[dict[str, Any]]:
        for index in range(count):
            yield _delta(index, {"role": "assistant", "content": ""}, None, None)

    def _piece(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: TokenLogprobs | None,
        length: int,
    ) -> dict[str, Any]:
        taken = self._taken(tokens, length if reason in (None, "stop") else None)
        return _delta(index, {"content": text} if text else {}, taken, finish_reason(reason))

    def _new_tokens(self, index: int) -> TokenLogprobs | None:
        if self._generation.logprobs is None or "choices" in self._generation.call.options:
            return None
        return TokenLogprobs(self._served.model.tokenizer, self._served.spell, 0)

    def _taken(self, tokens: TokenLogprobs | None, end: int | None) -> dict[str, Any] | None:
        if tokens is None:
            return None
        return chat_logprobs(tokens.take(end), self._generation.logprobs or 0)


def _delta(index: int, delta: dict[str, str], logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
