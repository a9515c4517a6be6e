"""A task on every line of a file, its answers a file of JSON lines that can be gone on with.

Answers are written in the order of the inputs, some dozens at a time. A run that was interrupted is
given again: answers that are there stay, a line that was cut off is made anew, and the rest is
appended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgeseq.runtime.errors import EdgeseqError, OptionError, PromptError, reason
from edgeseq.runtime.progress import Progress
from edgeseq.runtime.task_runs import Input, TaskResult, run_all
from edgeseq.runtime.task_templates import Template

if TYPE_CHECKING:
    from edgeseq.runtime.model import Model

WINDOW = 64  # inputs that are sorted by length among themselves, and whose answers come together


def read_inputs(path: Path, template: Template) -> list[Input]:
    """An input a line: a text for the template's first field, or in a .jsonl file an object.

    Raises ``PromptError`` for a line that is no input.
    """
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not text in UTF-8.") from error
    if lines[-1] == "":
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    if path.suffix != ".jsonl":
        return [{template.fields[0]: line} for line in lines]
    return [_object(f"{path}, line {i}", line, template) for i, line in enumerate(lines, 1)]


def answer_file(
    model: Model,
    template: Template,
    inputs: Sequence[Input],
    out: Path,
    options: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> int:
    """Append the answers that ``out`` lacks to it; returns how many were there already.

    Raises ``OptionError`` where ``out`` holds something else than the first answers to ``inputs``,
    unless ``overwrite``, and ``PromptError`` for an input that cannot be served: those before it
    are answered then.
    """
    kind = model.bundle.manifest.kind
    for i, values in enumerate(inputs, 1):
        with _naming(i):
            template.prompt(kind, values)  # lacks nothing
    with out.open("r+b" if out.exists() else "xb") as file:
        done = 0 if overwrite or file.mode == "xb" else _done(file, out, template, inputs)
        with Progress(template.name, len(inputs) - done, unit="lines") as progress:
            for i, result in _answers(model, template, inputs, done, options):
                if i == done:
                    file.truncate(file.tell())  # not before there is something to write
                line = _question(i, template, inputs) | {"output": result.text}
                if result.probabilities is not None:
                    line |= {"probabilities": result.probabilities}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()
                progress(1)
    return done


@contextmanager
def _naming(line: int) -> Iterator[None]:
    """Errors of an input say which line it is."""
    try:
        yield
    except PromptError as error:
        raise PromptError(f"Input line {line}: {error}") from error


def _answers(
    model: Model,
    template: Template,
    inputs: Sequence[Input],
    done: int,
    options: Mapping[str, Any],
) -> Iterator[tuple[int, TaskResult]]:
    for first in range(done, len(inputs), WINDOW):
        window = inputs[first : first + WINDOW]
        try:
            yield from enumerate(run_all(model, template, window, options), first)
            continue
        except PromptError:
            pass  # one of them: alone it can be named
        for i, values in enumerate(window, first):
            with _naming(i + 1):
                [result] = run_all(model, template, [values], options)
            yield i, result


def _question(number: int, template: Template, inputs: Sequence[Input]) -> dict[str, Any]:
    """What an answer begins with."""
    return {"line": number + 1, "task": template.name, "input": dict(inputs[number])}


def _done(file: BinaryIO, out: Path, template: Template, inputs: Sequence[Input]) -> int:
    """How many answers are there; the file is read up to their end."""
    done = end = 0
    for line in file:
        if done == len(inputs) or not _is_answer(line, done, template, inputs):
            raise OptionError(
                f"{out}, line {done + 1}, is not the answer to line {done + 1} of the input: give "
                "another file, or --overwrite."
            )
        if not line.endswith(b"\n"):
            break  # what an interruption left of it
        done += 1
        end += len(line)
    file.seek(end)
    return done


def _is_answer(line: bytes, number: int, template: Template, inputs: Sequence[Input]) -> bool:
    """Whether a line is the answer to an input, or was on the way to become it."""
    begin = json.dumps(_question(number, template, inputs), ensure_ascii=False).encode()[:-1]
    if not line.endswith(b"\n"):
        return line.startswith(begin) or begin.startswith(line)
    return line.startswith(begin) and line.endswith(b"}\n")


def _object(where: str, line: str, template: Template) -> Input:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{where}, is not JSON ({reason(error)}).") from error
    if not isinstance(found, dict):
        raise PromptError(f"{where}, is no object with {', '.join(template.fields)}.")
    if unknown := sorted(found.keys() - {*template.fields}):
        raise PromptError(
            f"{where}, has {unknown[0]!r:.60}; fields are {', '.join(template.fields)}."
        )
    return found


def check_files(source: Path, out: Path) -> None:
    """Refuse an output that is the input."""
    if out.exists() and out.samefile(source):
        raise EdgeseqError(f"{out} is the input: give another file for the answers.")
