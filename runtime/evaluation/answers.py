"""The answers of a model to examples, without sampling, and their metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..model import Model
from ..request.batching import batches
from ..tasks.runs import run_all
from .bootstrap import Estimates, estimate
from .continuations import BATCH
from .data import Data, Example
from .metrics import DEFAULTS, METRICS, OF_LABELS, Confusion, confusion

LIMITS = {"max_length", "max_new_tokens"}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to an example."""

    text: str
    is_cut: bool  # whether it was cut off at the limit of new tokens


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers to all examples, in their order."""

    answers: Sequence[Answer]
    limit: int | None  # new tokens, if it is not the bundle's or the template's

    @property
    def texts(self) -> list[str]:
        """The texts of the answers."""
        return [answer.text for answer in self.answers]

    @property
    def cut(self) -> int:
        """The number of answers that were cut off."""
        return sum(answer.is_cut for answer in self.answers)


def answer_all(
    model: Model,
    data: Data,
    progress: Callable[[int], object] = lambda texts: None,
    max_new_tokens: int | None = None,
) -> Answers:
    """Return the answers, generated with the defaults of task and bundle but without sampling.

    Inputs of similar length share a batch. Without a default of the task or the bundle, the limit
    of new tokens is twice the length of the longest target; ``max_new_tokens`` replaces any.
    ``progress`` is called with the number of texts of each batch.
    """
    windows = data.passages.windows
    template, manifest = data.template, model.bundle.manifest
    known = set(manifest.generation)
    if template is not None:
        known |= set(template.form(manifest.kind).options)
    limit = max_new_tokens
    if limit is None and not LIMITS & known:
        limit = max(2 * max(window.predicted for window in windows), 1)
    options: dict[str, Any] = {} if limit is None or data.labels else {"max_new_tokens": limit}
    found: dict[int, Answer] = {}
    for chosen in batches([len(window.prompt) for window in windows], rows=BATCH):
        for i, answer in zip(chosen, _batch(model, data, chosen, options), strict=True):
            found[i] = answer
        progress(len(chosen))
    return Answers(
        answers=[found[i] for i in range(len(windows))], limit=None if data.labels else limit
    )


def _batch(
    model: Model, data: Data, chosen: Sequence[int], options: Mapping[str, Any]
) -> Iterable[Answer]:
    if data.template is None:
        prompts = [data.passages.windows[i].prompt for i in chosen]
        results = model.generate_ids(prompts, do_sample=False, **options)
        return [Answer(text=r.text, is_cut=r.finish_reason == "length") for r in results]
    inputs = [data.examples[i].values for i in chosen]
    options = options if data.labels else {**options, "do_sample": False}
    return [
        Answer(text=result.text, is_cut=result.generation.finish_reason == "length")
        for result in run_all(model, data.template, inputs, options)
    ]


def metrics_of(data: Data) -> Sequence[str]:
    """Return the metrics that fit the data: those of the task, or else the defaults."""
    if data.labels:
        return OF_LABELS
    return DEFAULTS if data.template is None else data.template.metrics or DEFAULTS


def estimates(
    found: Sequence[str],
    examples: Sequence[Example],
    names: Iterable[str],
    reference: Sequence[str] | None = None,
) -> dict[str, Estimates]:
    """Return each metric of the answers, and its difference to that of the ``reference``'s."""
    expected = [example.target for example in examples]
    result = {}
    for name in names:
        metric = METRICS[name]
        others = None if reference is None else metric.statistics(reference, expected)
        result[name] = estimate(metric.statistics(found, expected), metric.score, others)
    return result


def confusion_of(found: Sequence[str], data: Data) -> Confusion | None:
    """Return the confusion of the labels; None if the task has none."""
    return confusion(found, [x.target for x in data.examples]) if data.labels else None


def write_predictions(path: Path, data: Data, answers: Mapping[str, Answers]) -> None:
    """Write a JSON object for each example: inputs, target, and answers by bundle.

    ``cut`` names the bundles whose answers were cut off.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for i, example in enumerate(data.examples):
            line = {
                **asdict(example),
                "predictions": {name: found.answers[i].text for name, found in answers.items()},
                "cut": [name for name, found in answers.items() if found.answers[i].is_cut],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
