"""Answers to inputs: an input that the model cannot process gets an error instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..runtime.errors import OptionError, PromptError
from ..runtime.tasks.runs import LANGUAGES, check_languages, run_all
from ..runtime.tasks.templates import Template
from ..runtime.translation.directions import TaskModel

Fields = Mapping[str, Any]
MOST_PAIRS = 10_000  # pairs of languages whose check is remembered


class Answer(NamedTuple):
    """The answer to an input, or the error because of which there is none."""

    text: str
    probabilities: Mapping[str, float] | None = None  # only with labels
    error: str | None = None
    truncated_tokens: int = 0


class Answering:
    """A task on a loaded model; ``options`` override the template's.

    Raises ``OptionError`` for wrong options, and for a template that is not for this kind of model.
    """

    def __init__(self, model: TaskModel, template: Template, options: Mapping[str, Any]) -> None:
        run_all(model, template, [], options)
        self._model, self._template, self._options = model, template, options
        self._kind = model.bundle.manifest.kind
        self._checked: dict[tuple[Any, ...], str | None] = {}  # errors of languages

    def check(self, constants: Mapping[str, str], columns: Sequence[str]) -> None:
        """Raise ``OptionError`` for languages in ``constants`` that the model does not have.

        If ``columns`` of the input name languages, they are checked with each row.
        """
        if not any(name in columns for name in LANGUAGES):
            check_languages(self._model, self._template, constants)

    def __call__(self, inputs: Sequence[Fields]) -> list[Answer]:
        """Return the answers to ``inputs``, in their order; similar lengths share a batch."""
        faults = [self._fault(fields) for fields in inputs]
        sound = [fields for fields, fault in zip(inputs, faults, strict=True) if fault is None]
        answers = self._answers(sound)
        return [next(answers) if fault is None else Answer("", None, fault) for fault in faults]

    def _fault(self, fields: Fields) -> str | None:
        try:
            self._template.prompt(self._kind, fields)
        except PromptError as error:
            return str(error)
        languages = tuple(fields.get(name) for name in LANGUAGES)
        if languages not in self._checked:
            if len(self._checked) == MOST_PAIRS:
                self._checked.clear()
            try:
                check_languages(self._model, self._template, fields)
                self._checked[languages] = None
            except OptionError as error:
                self._checked[languages] = str(error)
        return self._checked[languages]

    def _answers(self, inputs: Sequence[Fields]) -> Iterator[Answer]:
        """Yield the answers to inputs whose fields are sound."""
        if not inputs:
            return
        try:
            found = run_all(self._model, self._template, inputs, self._options)
        except PromptError as error:
            if len(inputs) == 1:
                yield Answer("", None, str(error))
                return
            half = len(inputs) // 2  # it fails before it generates, so that halves cost little
            yield from self._answers(inputs[:half])
            yield from self._answers(inputs[half:])
            return
        for result in found:
            truncated = result.generation.truncated_tokens
            yield Answer(result.text, result.probabilities, truncated_tokens=truncated)
