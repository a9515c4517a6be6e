"""Data sets: the examples of files, split into training and held-out examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import OptionError, PromptError
from ...runtime.tables.row import MISSING
from ..template import DataSettings
from .examples import Dataset, Pair, Unusable
from .reading import Content, columns_advice, read_files
from .splitting import key_of, split

SHOWN = 20  # unusable rows that are listed


def read_dataset(
    settings: DataSettings, files: Sequence[Path], held_out: Sequence[Path] = ()
) -> Dataset:
    """Return the examples of ``files``.

    ``held_out``: files of held-out examples; without them a seeded share of the examples is held
    out. No source of a training pair, and no training document, is also held out: training examples
    that the held-out files have as well are left out.

    Raises ``PromptError`` for a file that cannot be used, too many unusable rows, or too few
    examples.
    """
    if not files:
        raise OptionError("There are no files of data: give at least one.")
    _check_different([*files, *held_out])
    content = read_files(settings, files)
    others = read_files(settings, held_out)
    unusable = [*content.unusable, *others.unusable]
    _check_share(unusable, content.rows + others.rows, settings)
    given = len(content.examples)
    if held_out:
        _check_any(content, others)
        kept = {key_of(example) for example in others.examples}
        training = [example for example in content.examples if key_of(example) not in kept]
        if not training:
            raise PromptError(
                f"All {given:,} training examples are in the held-out files as well: give others."
            )
        held = others.examples
    else:
        training, held = split(content.examples, settings)
    found: Any = (training, held)  # all of one kind
    _check_labels(settings, found)
    return Dataset(
        training=found[0],
        held_out=found[1],
        files=content.files,
        held_out_files=others.files,
        unusable=unusable,
        left_out=given - len(training) if held_out else 0,
    )


def _check_different(files: Sequence[Path]) -> None:
    seen = set()
    for path in files:
        if path.resolve() in seen:
            raise OptionError(f"The file {path} is given twice: give it once.")
        seen.add(path.resolve())


def _check_share(unusable: Sequence[Unusable], rows: int, settings: DataSettings) -> None:
    if len(unusable) <= settings.max_unusable * rows:
        return
    first = unusable[0]
    advice = "correct the rows, or raise data.max_unusable"
    if "UTF-8" in first.reason:
        advice = "save the file as UTF-8"
    elif first.reason.startswith(MISSING):
        advice = columns_advice(settings)
    raise PromptError(
        f"{len(unusable):,} of {rows:,} rows cannot be used, more than the share of "
        f"{settings.max_unusable:g} that data.max_unusable allows ({first}): {advice}."
    )


def _check_any(content: Content, others: Content) -> None:
    for name, examples in (("training", content.examples), ("held-out", others.examples)):
        if not examples:
            raise PromptError(f"The {name} files have no examples: give files with some.")


def _check_labels(settings: DataSettings, examples: tuple[Sequence[Any], Sequence[Any]]) -> None:
    if settings.labels and len({pair.target for part in examples for pair in part}) < 2:
        raise PromptError(
            "All targets are the same label: give examples with at least two different labels."
        )


def describe(dataset: Dataset) -> list[str]:
    """Return lines that say how much was read, and which rows cannot be used."""
    noun = "pairs" if isinstance(dataset.training[0], Pair) else "documents"
    lines = [
        f"data: {len(dataset.training):,} {noun} for training, {len(dataset.held_out):,} held out"
    ]
    if dataset.left_out:
        lines.append(
            f"{dataset.left_out:,} training {noun} are left out: the held-out files have them"
        )
    if dataset.unusable:
        count = len(dataset.unusable)
        lines.append(f"{count:,} row{'s' * (count != 1)} cannot be used:")
        lines += [f"  {row}" for row in dataset.unusable[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  and {count - SHOWN:,} more")
    return lines


def prompt_of(settings: DataSettings, source: str, *, is_decoder_only: bool) -> str:
    """Return the prompt that a model reads for ``source``."""
    return f"{settings.source_prefix}{source}{settings.separator if is_decoder_only else ''}"


def write_held_out(dataset: Dataset, path: Path, prompt: Callable[[str], str] = str) -> None:
    """Write the held-out examples: pairs as JSON Lines, documents as one text.

    ``prompt``: from a source to the source that is written, such as ``prompt_of``.
    """
    lines = [
        json.dumps({"source": prompt(one.source), "target": one.target}, ensure_ascii=False)
        if isinstance(one, Pair)
        else one
        for one in dataset.held_out
    ]
    between = "\n" if isinstance(dataset.held_out[0], Pair) else "\n\n"
    path.write_text(between.join(lines) + "\n", encoding="utf-8", newline="\n")
