"""The methods that compute: ``generate``, ``run`` and ``tokenize``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import closing, nullcontext
from typing import Any, NamedTuple

from ...runtime.model import Model
from ...runtime.request.controls import CONTROL_NAMES, FUNCTIONS
from ...runtime.request.options import OPTION_TRAITS
from ...runtime.results import GenerationResult
from ...runtime.session import Session
from ...runtime.tasks.templates import read_template, template_names
from .jobs import Job
from .messages import INVALID_PARAMS, Message, Params, RpcError, notification
from .sessions import Sessions

OPTIONS = tuple(name for name in (*OPTION_TRAITS, *CONTROL_NAMES) if name not in FUNCTIONS)


class Work(NamedTuple):
    """The work of a request, whose parameters have been read."""

    compute: Callable[[Job], Any]  # returns the result of the answer
    key: Hashable | None = None  # requests with the same key are computed one after the other


class LoadedModels:
    """The models by their names; ``names`` has also those that are not loaded yet."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._models: dict[str, Model] = {}
        self._sessions: dict[str, Sessions] = {}

    def add(self, name: str, model: Model) -> None:
        """Add a model that is loaded."""
        self._models[name] = model
        self._sessions[name] = Sessions(model)

    def name(self, params: Params) -> str:
        """Take the parameter ``model``, which the only model does not need."""
        name = params.text("model", self.names[0] if len(self.names) == 1 else None)
        if name not in self.names:
            raise RpcError(
                INVALID_PARAMS,
                f"There is no model {name!r:.60}: choose from {', '.join(self.names)}.",
            )
        return name

    def model(self, name: str) -> Model:
        """Return a model, once all are loaded."""
        return self._models[name]

    def sessions(self, name: str) -> Sessions:
        """Return the sessions of a model, once all are loaded."""
        return self._sessions[name]

    def describe(self) -> list[Message]:
        """Return what an app may want to know about each model that is loaded."""
        templates = [read_template(name) for name in template_names()]
        found = []
        for name, model in self._models.items():
            manifest = model.bundle.manifest
            found.append(
                {
                    "name": name,
                    "kind": manifest.kind,
                    "architecture": manifest.architecture,
                    "recipe": manifest.quantization.recipe,
                    "context_length": manifest.dimensions.max_positions,
                    "tasks": [t.name for t in templates if manifest.kind in t.forms],
                }
            )
        return found


def generate(models: LoadedModels, params: Params, send: Callable[[Message], None]) -> Work:
    """Return the work of ``generate``: continue a prompt, or answer it.

    ``send``: takes the notifications of a stream.
    """
    name, prompt, stream = models.name(params), params.text("prompt"), params.flag("stream")
    session = params.text("session", "")
    options = params.options(OPTIONS)
    params.finish((*OPTIONS, "model", "prompt", "stream", "session"))

    def compute(job: Job) -> Message:
        with models.sessions(name).one(session) if session else nullcontext() as one:
            caller: Model | Session = models.model(name) if one is None else one
            given = {**options, "cancel": job.cancelled}
            if not stream:
                return _answer(caller.generate(prompt, **given), options)
            with closing(caller.stream(prompt, **given)) as pieces:
                for piece in pieces:
                    send(notification("piece", {"id": job.id, "text": piece}))
            assert pieces.result is not None  # all pieces are read
            return _answer([pieces.result], options)

    return Work(compute, (name, session) if session else None)


def run(models: LoadedModels, params: Params) -> Work:
    """Return the work of ``run``: a task on one input."""
    name, task, fields = models.name(params), params.text("task"), params.texts("fields")
    options = params.options(OPTIONS)
    params.finish((*OPTIONS, "model", "task", "fields"))
    known = read_template(task).fields
    for field in fields:
        if field not in known:
            raise RpcError(
                INVALID_PARAMS,
                f"The task has no field {field!r:.60}: its fields are {', '.join(known)}.",
            )

    def compute(job: Job) -> Message:
        found = models.model(name).run(task, **fields, **options, cancel=job.cancelled)
        assert not isinstance(found, list)  # each field is one text
        chances = found.probabilities
        return {
            "text": found.text,
            "probabilities": None if chances is None else _list(chances, "label"),
            "prompt_tokens": found.generation.prompt_tokens,
            "generated_tokens": found.generation.generated_tokens,
        }

    return Work(compute)


def tokenize(models: LoadedModels, params: Params) -> Work:
    """Return the work of ``tokenize``: the token ids of a text."""
    name, text = models.name(params), params.text("text")
    special = params.flag("add_special_tokens", True)
    params.finish(("model", "text", "add_special_tokens"))

    def compute(job: Job) -> Message:
        model = models.model(name)
        ids = model.tokenizer.encode(text, add_special_tokens=special)
        longest = model.bundle.manifest.dimensions.max_positions
        return {"tokens": ids, "count": len(ids), "context_length": longest}

    return Work(compute)


def close_session(models: LoadedModels, params: Params) -> Work:
    """Return the work of ``close_session``: free the memory of a session."""
    name, session = models.name(params), params.text("session")
    params.finish(("model", "session"))
    return Work(lambda job: {"closed": models.sessions(name).close(session)})


def list_models(models: LoadedModels, params: Params) -> Work:
    """Return the work of ``models``: what is served."""
    params.finish()
    return Work(lambda job: {"models": models.describe()})


def _answer(results: list[GenerationResult], options: Mapping[str, Any]) -> Message:
    return {"results": [_body(result, options) for result in results]}


def _body(result: GenerationResult, options: Mapping[str, Any]) -> Message:
    body: Message = {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "truncated_tokens": result.truncated_tokens,
        "generated_tokens": result.generated_tokens,
        "first_token_s": round(result.timings.first_token_s, 4),
        "total_s": round(result.timings.total_s, 4),
    }
    if result.choices is not None:
        body["choices"] = [
            {"text": c.text, "probability": c.probability, "logprob": c.logprob}
            for c in result.choices
        ]
    if result.sequence_score is not None:
        body["sequence_score"] = result.sequence_score
    if options.get("logprobs") is not None:
        body |= {
            "token_ids": result.token_ids,
            "logprobs": result.logprobs,
            "top_logprobs": result.top_logprobs,
        }
    return body


def _list(probabilities: Mapping[str, float], name: str) -> list[Message]:
    """Return probabilities as a list, which keeps their order in every language."""
    return [{name: text, "probability": value} for text, value in probabilities.items()]
