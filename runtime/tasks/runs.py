"""Tasks on a loaded model: prompts from a template, and what is made of the answers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, PromptError
from ..request.controls import GUIDES
from ..request.request import checked_request
from ..request.resolving import resolve_options
from ..results import GenerationResult
from .templates import Form, Template, read_template

if TYPE_CHECKING:
    from ..model import Model

Input = Mapping[str, str]
BATCH_TOKENS = 4096  # of prompts that are generated from at once, padding counted
BATCH_ROWS = 16
COUNT = "num_return_sequences"
OF_ONE_PROMPT = {"decoder_input_ids", "prefix_allowed_tokens_fn"}


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The answer to one input."""

    text: str  # the answer; of a classification the most probable label, or "" if it was cancelled
    probabilities: Mapping[str, float] | None  # of a classification, by label, the highest first
    generation: GenerationResult


def run(
    model: Model,
    task: str | os.PathLike[str] | Template,
    text: str | Sequence[str] | None = None,
    /,
    **given: Any,
) -> TaskResult | list[TaskResult]:
    """``Model.run``."""
    template = task if isinstance(task, Template) else read_template(task)
    values = {name: given.pop(name) for name in template.fields if name in given}
    first = template.fields[0]
    if text is not None:
        if first in values:
            raise OptionError(f"{first} has no effect beside the text: pass one of them.")
        values[first] = text
    texts = values.get(first, template.defaults.get(first))
    if isinstance(texts, str):
        return run_all(model, template, [values], given)[0]
    if not isinstance(texts, list | tuple):
        raise PromptError(
            f"The task {template.name} takes texts for {', '.join(template.fields)}; {first} is "
            f"{texts!r:.60}."
        )
    return run_all(model, template, [{**values, first: item} for item in texts], given)


def run_all(
    model: Model, template: Template, inputs: Sequence[Input], options: Mapping[str, Any]
) -> list[TaskResult]:
    """The answers to ``inputs``, in their order; inputs of similar length are read together.

    ``options``: of ``generate``, over the template's. Raises ``PromptError`` for an input that
    lacks a field, ``OptionError`` for a template that is not for this kind of model.
    """
    kind = model.bundle.manifest.kind
    form = template.form(kind)
    prompts = [template.prompt(kind, values) for values in inputs]
    options = dict(options)
    for name in OF_ONE_PROMPT & {name for name, value in options.items() if value is not None}:
        raise OptionError(f"{name} belongs to single prompts: use generate.")
    if options.pop(COUNT, None) not in (None, 1):
        raise OptionError(f"{COUNT} has no effect with a task: it has one answer.")
    if form.labels and options.get("choices") is None:
        options["choices"] = list(form.labels.values())
    model, constraints = _with_template(model, template)
    options = {**constraints, **options}
    ids = [model.tokenizer.encode(prompt) for prompt in prompts]
    checked_request(model.bundle.manifest, ids, options)  # by their own numbers
    found: dict[int, TaskResult] = {}
    for batch in batches([len(prompt) for prompt in ids]):
        for result in model.generate_ids([ids[i] for i in batch], **options):
            i = batch[result.prompt_index]
            found[i] = _result(form, replace(result, prompt_index=i))
    return [found[i] for i in range(len(inputs))]


def _with_template(model: Model, template: Template) -> tuple[Model, dict[str, Any]]:
    """The model with the template's options as its defaults, and what its texts have to match."""
    manifest = model.bundle.manifest
    form = template.form(manifest.kind)
    constraints = {name: form.options[name] for name in GUIDES if name in form.options}
    given = {name: value for name, value in form.options.items() if name not in constraints}
    defaults = {name: value for name, value in manifest.generation.items() if name != COUNT}
    try:
        if given.get(COUNT, 1) != 1:
            raise OptionError(f"{COUNT} has no effect with a task: it has one answer.")
        resolve_options(defaults, given, manifest.kind)  # as defaults, wrong ones would be unused
    except OptionError as error:
        raise OptionError(f"The template {template.name} has wrong options: {error}") from error
    return model.with_defaults({**defaults, **given}), constraints


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of prompts that are read together: of similar length, so that few places are empty.

    A batch has ``BATCH_ROWS`` prompts at most, and ``BATCH_TOKENS`` tokens unless it is one prompt.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        rows = len(found[-1]) + 1 if found else BATCH_ROWS + 1
        if rows > BATCH_ROWS or rows * lengths[i] > BATCH_TOKENS:
            found.append([])
        found[-1].append(i)
    return found


def _result(form: Form, generation: GenerationResult) -> TaskResult:
    if generation.choices is None:
        text = generation.text.strip() if form.strip else generation.text
        return TaskResult(text=text, probabilities=None, generation=generation)
    label_of = {written: label for label, written in form.labels.items()}
    probabilities = {
        label_of.get(choice.text, choice.text): choice.probability for choice in generation.choices
    }
    best = next(iter(probabilities), "")  # none where it was cancelled
    return TaskResult(text=best, probabilities=probabilities, generation=generation)
