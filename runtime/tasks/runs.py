"""Running a task on a loaded model: from inputs and a template to answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import OptionError
from ..request.batching import batches
from ..request.controls import GUIDES
from ..request.prompts import encode_prompt
from ..request.request import checked_request
from ..request.resolving import resolve_options
from ..results import GenerationResult
from ..translation.directions import Direction, TaskModel, direction, has_pairs, knows_languages
from ..translation.documents import translate_documents
from .templates import Form, Template

Input = Mapping[str, str]
COUNT = "num_return_sequences"
LANGUAGES = ("source_language", "target_language")  # fields of a template that translates
OF_ONE_PROMPT = {"decoder_input_ids", "prefix_allowed_tokens_fn"}


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The answer of a task to one input.

    Attributes:
        text: The answer. In a task with labels it is the most probable label; "" if the call was
            cancelled.
        probabilities: In a task with labels, the probability of each label, the highest first.
            Otherwise None.
        generation: The result of the generation, with the new tokens and the timings. For a
            translation, the results of all of its sentences as one.
    """

    text: str
    probabilities: Mapping[str, float] | None
    generation: GenerationResult


def run_all(
    model: TaskModel, template: Template, inputs: Sequence[Input], options: Mapping[str, Any]
) -> list[TaskResult]:
    """Return the answers to ``inputs``, in their order; inputs of similar length share a batch.

    ``options``: options of ``generate``; they override the template's. Raises ``PromptError`` for
    an input without a field, ``OptionError`` for a template that is not for this kind of model.
    """
    kind = model.bundle.manifest.kind
    form = template.form(kind)
    prompts = [template.prompt(kind, values) for values in inputs]
    options = dict(options)
    for name in OF_ONE_PROMPT & {name for name, value in options.items() if value is not None}:
        raise OptionError(f"{name} has no effect with a task: use generate.")
    if options.pop(COUNT, None) not in (None, 1):
        raise OptionError(f"{COUNT} has no effect with a task, which has one answer: use generate.")
    if form.translates:
        return _translated(model, template, inputs, options)
    if form.labels and options.get("choices") is None:
        options["choices"] = list(form.labels.values())
    model, constraints = _with_template(model, template)
    options = {**constraints, **options}
    ids = [encode_prompt(model.tokenizer, prompt) for prompt in prompts]
    checked_request(model.bundle.manifest, ids, options)  # errors name the caller's indices
    found: dict[int, TaskResult] = {}
    for batch in batches([len(prompt) for prompt in ids]):
        for result in model.generate_ids([ids[i] for i in batch], **options):
            i = batch[result.prompt_index]
            found[i] = _result(form, replace(result, prompt_index=i))
    return [found[i] for i in range(len(inputs))]


def check_languages(model: TaskModel, template: Template, values: Input) -> None:
    """Raise ``OptionError`` if an input asks for languages that the model does not have."""
    if template.form(model.bundle.manifest.kind).translates:
        direction_of(model, template, values)


def direction_of(model: TaskModel, template: Template, values: Input) -> Direction:
    """Return the direction of an input; the template's prompt is for models without languages."""
    manifest = model.bundle.manifest
    if not knows_languages(manifest):
        first = template.fields[0]
        return Direction(
            model, lambda text: template.prompt(manifest.kind, {**values, first: text})
        )
    given = [values.get(name) for name in LANGUAGES]
    if has_pairs(manifest) and given == [None, None]:
        given = [template.defaults.get(name) for name in LANGUAGES]
    return direction(model, *given)


def _translated(
    model: TaskModel, template: Template, inputs: Sequence[Input], options: Mapping[str, Any]
) -> list[TaskResult]:
    """Return the translations of ``inputs``, which are documents."""
    _with_template(model, template)  # it checks the template's options
    options = {**template.form(model.bundle.manifest.kind).options, **options}
    groups: dict[tuple[str | None, ...], list[int]] = defaultdict(list)
    for i, values in enumerate(inputs):
        groups[tuple(values.get(name) for name in template.fields[1:])].append(i)
    found: dict[int, TaskResult] = {}
    for group in groups.values():
        way = direction_of(model, template, inputs[group[0]])
        texts = [{**template.defaults, **inputs[i]}[template.fields[0]] for i in group]
        for i, translation in zip(group, translate_documents(way, texts, options), strict=True):
            found[i] = TaskResult(
                text=translation.text, probabilities=None, generation=translation.as_result(i)
            )
    if not inputs:
        translate_documents(Direction(model, str), [], options)  # it checks the options
    return [found[i] for i in range(len(inputs))]


def _with_template(model: TaskModel, template: Template) -> tuple[TaskModel, dict[str, Any]]:
    """Return the model with the template's options as defaults, and the template's constraints."""
    manifest = model.bundle.manifest
    form = template.form(manifest.kind)
    constraints = {name: form.options[name] for name in GUIDES if name in form.options}
    given = {name: value for name, value in form.options.items() if name not in constraints}
    defaults = {name: value for name, value in manifest.generation.items() if name != COUNT}
    try:
        if given.get(COUNT, 1) != 1:
            raise OptionError(f"{COUNT} has no effect with a task, which has one answer.")
        resolve_options(defaults, given, manifest.kind)  # wrong defaults would be ignored later
    except OptionError as error:
        raise OptionError(f"The template {template.name} has wrong options: {error}") from error
    return model.with_defaults({**defaults, **given}), constraints


def _result(form: Form, generation: GenerationResult) -> TaskResult:
    if generation.choices is None:
        text = generation.text.strip() if form.strip else generation.text
        return TaskResult(text=text, probabilities=None, generation=generation)
    label_of = {written: label for label, written in form.labels.items()}
    probabilities = {
        label_of.get(choice.text, choice.text): choice.probability for choice in generation.choices
    }
    best = next(iter(probabilities), "")  # empty if the call was cancelled
    return TaskResult(text=best, probabilities=probabilities, generation=generation)
