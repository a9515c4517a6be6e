"""``GET /v1/tasks``, ``POST /v1/tasks/{task}``, ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..runtime.model import Model
from ..runtime.request.controls import CONTROL_NAMES, FUNCTIONS
from ..runtime.request.options import OPTION_TRAITS
from ..runtime.request.prompts import check_ids
from ..runtime.tasks.runs import TaskResult
from ..runtime.tasks.templates import Template, read_template, template_names
from .answers import usage
from .completions import check_length
from .errors import ApiError, bad_field
from .fields import Fields
from .generating import Services
from .models import ServedModel
from .options import check_sizes
from .strict_json import encode_json
from .work import Job

OPTIONS = tuple(name for name in (*OPTION_TRAITS, *CONTROL_NAMES) if name not in FUNCTIONS)
LENGTHS = ("max_new_tokens", "max_length")


def list_tasks() -> dict[str, Any]:
    """Return the tasks: their fields, defaults of fields, and labels for each kind of model."""
    templates = map(read_template, template_names())
    return {
        "object": "list",
        "data": [
            {
                "id": template.name,
                "object": "task",
                "title": template.title,
                "fields": list(template.fields),
                "defaults": dict(template.defaults),
                "forms": {
                    kind: {"labels": list(form.labels)} for kind, form in template.forms.items()
                },
            }
            for template in templates
        ],
    }


async def run_task(
    task: str, services: Services, served: ServedModel, fields: Fields, job: Job
) -> dict[str, Any]:
    """Run a task on one input or a list of inputs, as ``Model.run`` does; return the body.

    The options are edgeseq's; those left out have the template's or the bundle's defaults.
    """
    settings, model = services.settings, served.with_bundle_defaults
    if task not in template_names():  # a path would be read from the disk
        raise ApiError(
            404,
            f"There is no task {task!r:.60}: choose from {', '.join(template_names())}.",
            code="task_not_found",
        )
    template = read_template(task)
    given = {name: fields.take(name) for name in template.fields if name in fields}
    options = fields.options(OPTIONS)
    check_sizes(options, settings)
    fields.finish((*template.fields, *OPTIONS, "model"))
    first = template.fields[0]
    texts = given.pop(first, None)
    several = texts if isinstance(texts, list) else [texts]
    if not several or not all(isinstance(text, str) for text in several):
        raise bad_field(first, f"{first} is {texts!r:.60}; it must be a string or a list of them.")
    for name, value in given.items():
        if not isinstance(value, str):
            raise bad_field(name, f"{name} is {value!r:.60}; it must be a string.")
    beams = _beams(options, template, model)
    rows = len(several) * beams
    if rows > settings.max_texts:
        raise bad_field(
            first,
            f"The request has {len(several)} inputs with {beams} beams each; the limit is "
            f"{settings.max_texts} together: send several requests.",
        )
    for name in LENGTHS:
        length = options.get(name)
        if type(length) is int and length > settings.max_tokens:
            raise bad_field(
                name, f"{name} is {length}; the limit is {settings.max_tokens}: use a smaller one."
            )

    def check() -> None:
        for text in (*several, *given.values()):
            check_length(model.tokenizer.encode(text), settings)

    await services.threads.check(check, settings.constraint_s)
    served.queue.enter(job)
    async with served.queue.slot(job, rows):
        found = await services.threads.run(
            job, lambda: model.run(task, several, **given, **options, cancel=job.is_over)
        )
    results: Sequence[TaskResult] = found if isinstance(found, list) else [found]
    if job.is_late:
        raise ApiError(
            503,
            f"The task took longer than the limit of {settings.request_s:g} seconds: send fewer or "
            "shorter inputs.",
            code="timeout",
        )
    prompt = sum(result.generation.prompt_tokens for result in results)
    generated = sum(result.generation.generated_tokens for result in results)
    services.metrics.prompt_tokens[served.name] += prompt
    services.metrics.generated_tokens[served.name] += generated
    return {
        "id": f"task-{secrets.token_hex(12)}",
        "object": "task",
        "task": task,
        "model": served.name,
        "results": [
            {
                "index": index,
                "text": result.text,
                "probabilities": None
                if result.probabilities is None
                else [
                    {"label": label, "probability": probability}
                    for label, probability in result.probabilities.items()
                ],
            }
            for index, result in enumerate(results)
        ],
        "usage": usage(prompt, generated),
    }


def _beams(options: Mapping[str, Any], template: Template, model: Model) -> int:
    """Return the beams of a task: those of the request, the template or the bundle."""
    manifest = model.bundle.manifest
    defaults = {**manifest.generation, **template.form(manifest.kind).options}
    beams = options.get("num_beams", defaults.get("num_beams", 1))
    return beams if type(beams) is int and beams > 0 else 1  # the runtime refuses others


async def tokenize(services: Services, served: ServedModel, fields: Fields, job: Job) -> bytes:
    """Return the token ids of a text."""
    text = fields.take("prompt")
    if not isinstance(text, str):
        raise bad_field("prompt", f"prompt is {text!r:.60}; it must be a string.")
    special = fields.flag("add_special_tokens", True)
    fields.finish(("model", "prompt", "add_special_tokens"))
    tokenizer = served.model.tokenizer
    ids = await services.threads.check(
        lambda: tokenizer.encode(text, add_special_tokens=special), services.settings.constraint_s
    )
    longest = served.model.bundle.manifest.dimensions.max_positions
    found = {"tokens": ids, "count": len(ids), "max_model_len": longest}
    return await services.threads.build(lambda: encode_json(found))


async def detokenize(
    services: Services, served: ServedModel, fields: Fields, job: Job
) -> dict[str, Any]:
    """Return the text of token ids."""
    ids = fields.take("tokens")
    if not isinstance(ids, list):
        raise bad_field("tokens", f"tokens is {ids!r:.60}; it must be a list of token ids.")
    fields.finish(("model", "tokens"))
    sizes = served.model.bundle.manifest.dimensions
    check_ids("tokens", ids, max(sizes.vocabulary, sizes.prompt_vocabulary))
    text = await services.threads.check(
        lambda: served.model.tokenizer.decode(ids), services.settings.constraint_s
    )
    return {"prompt": text}
