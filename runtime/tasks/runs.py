"""Running a task on a loaded model: from inputs and a template to answers."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import OptionError, PromptError
from ..request.batching import batches
from ..request.controls import GUIDES
from ..request.prompts import encode_prompt
from ..request.request import checked_request
from ..request.resolving import resolve_options
from ..request.truncating import longest_prompt, truncation_side
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
    lost = _cut_fields(model, template, inputs, options, ids)
    # Errors name the caller's indices.
    checked_request(model.bundle.manifest, model.tokenizer, ids, options)
    found: dict[int, TaskResult] = {}
    for batch in batches([len(prompt) for prompt in ids]):
        for result in model.generate_ids([ids[i] for i in batch], **options):
            i = batch[result.prompt_index]
            of_caller = replace(result, prompt_index=i, truncated_tokens=lost[i])
            found[i] = _result(form, of_caller)
    return [found[i] for i in range(len(inputs))]


def _cut_fields(
    model: TaskModel,
    template: Template,
    inputs: Sequence[Input],
    options: Mapping[str, Any],
    ids: list[list[int]],
) -> list[int]:
    """Cut inputs that are too long, as the option ``truncation`` says; return the tokens each lost.

    The text of an input's longest field is cut, so that the rest of the prompt, such as "TL;DR:",
    stays. ``ids``: the tokens of the prompts, which are replaced.
    """
    manifest, tokenizer = model.bundle.manifest, model.tokenizer
    lost = [0] * len(ids)
    request = checked_request(manifest, tokenizer, [], options)
    side = truncation_side(request.options, manifest)
    if not side:
        return lost
    longest = longest_prompt(request.options, request.controls, manifest, tokenizer)
    for i, whole in enumerate(ids):
        if longest is None or len(whole) <= longest:
            continue
        values = {**template.defaults, **inputs[i]}
        name = max(template.fields, key=lambda field: len(values[field]))

        def encode(part: str, others: Input = values, name: str = name) -> list[int]:
            prompt = template.prompt(manifest.kind, {**others, name: part})
            return encode_prompt(tokenizer, prompt)

        ids[i] = _longest_part(encode, values[name], side, longest)
        if not ids[i]:
            raise PromptError(
                f"truncation leaves no room for the field {name}, because the rest of the prompt "
                f"has more than the {longest} tokens that the model can read beside its new ones: "
                "use a lower max_new_tokens, or shorten the other fields."
            )
        lost[i] = len(whole) - len(ids[i])
    return lost


def _longest_part(
    encode: Callable[[str], list[int]], text: str, side: str, longest: int
) -> list[int]:
    """Return the tokens of the longest part of ``text`` that has at most ``longest`` tokens.

    ``encode``: returns the tokens of the prompt with a part. ``side``: the side that is cut. Empty
    if no part fits.
    """

    def ids(size: int) -> list[int]:
        return encode(text[:size] if side == "right" else text[len(text) - size :])

    too_long = bisect_left(range(1, len(text) + 1), True, key=lambda size: len(ids(size)) > longest)
    return ids(too_long) if too_long else []


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
