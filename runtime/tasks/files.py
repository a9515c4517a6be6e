"""A task on every line of a file: inputs, answers as JSON lines, and a lock on the output file.

Answers are written in the order of the inputs, some dozens at a time. For an input that the model
cannot serve, an error is written instead of an answer. To continue after an interruption, start the
same run again: it keeps the complete answers, replaces a line that was cut off and appends the
rest. The lock keeps two runs from writing one file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

from ..concurrency.file_lock import lock
from ..errors import EdgeseqError, OptionError, PromptError
from ..progress import Progress
from ..text.input_lines import decode_utf8, json_object, split_lines
from ..translation.directions import TaskModel
from .runs import Input, TaskResult, check_languages, run_all
from .templates import Template

STANDARD = "-"  # standard input or output instead of a file
WINDOW = 64  # inputs that are batched by length, and whose answers are written together


def read_inputs(path: Path, template: Template) -> list[Input]:
    """Return one input for each line of a file.

    A line is a text for the template's first field; in a .jsonl file it is an object. ``-`` is
    standard input, with texts. Raises ``PromptError`` for a line that is not an input.
    """
    content = sys.stdin.buffer.read() if str(path) == STANDARD else path.read_bytes()
    text = decode_utf8(content, path)
    lines = split_lines(text) if text else []
    if path.suffix != ".jsonl":
        return [{template.fields[0]: line} for line in lines]
    return [_object(f"{path}, line {i}", line, template) for i, line in enumerate(lines, 1)]


class Answered(NamedTuple):
    """The number of answers that existed before, and the number of errors among all answers."""

    before: int
    failed: int


class Job:
    """A task on ``inputs``, whose answers are lines of JSON.

    ``loading``: the arguments of ``load`` that change answers. Raises ``OptionError`` for a
    template that is not for this kind of model, ``PromptError`` for an input that lacks a field.
    """

    def __init__(
        self,
        model: TaskModel,
        template: Template,
        inputs: Sequence[Input],
        options: Mapping[str, Any],
        loading: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        manifest = model.bundle.manifest
        form = template.form(manifest.kind)
        checked: set[tuple[str | None, ...]] = set()  # values of the fields besides the first
        for i, values in enumerate(inputs, 1):
            others = tuple(values.get(name) for name in template.fields[1:])
            try:
                template.prompt(manifest.kind, values)
                if others not in checked:
                    check_languages(model, template, values)
                    checked.add(others)
            except (OptionError, PromptError) as error:
                raise type(error)(f"Input line {i}: {error}") from error
        self.inputs = inputs
        self.name = template.name
        self._model, self._template, self._options = model, template, options
        files = {name: file.sha256 for name, file in manifest.files.items()}
        defaults = [dict(template.defaults), manifest.generation]
        told = [files, asdict(form), defaults, dict(options), dict(loading)]
        known = json.dumps(told, sort_keys=True, default=repr).encode()
        # Identifies everything, except the input, that the answers depend on.
        self._run = sha256(known).hexdigest()[:12]

    def begin(self, number: int) -> bytes:
        """Return the beginning of an answer's line, which identifies the input and the run."""
        return self._line(number, {})[: -len("}")]

    def lines(self, first: int) -> Iterator[tuple[bytes, bool]]:
        """Yield each line from ``first`` on, and whether it is an answer (else it is an error)."""
        for start in range(first, len(self.inputs), WINDOW):
            window = self.inputs[start : start + WINDOW]
            for number, found in enumerate(self._answers(window), start):
                if isinstance(found, PromptError):
                    yield self._line(number, {"error": str(found)}) + b"\n", False
                    continue
                answer: dict[str, Any] = {"output": found.text}
                if found.probabilities is not None:
                    answer |= {"probabilities": found.probabilities}
                if found.generation.truncated_tokens:
                    answer |= {"truncated_tokens": found.generation.truncated_tokens}
                yield self._line(number, answer) + b"\n", True

    def _answers(self, window: Sequence[Input]) -> Iterator[TaskResult | PromptError]:
        try:
            yield from run_all(self._model, self._template, window, self._options)
            return
        except PromptError:
            pass  # an input cannot be served: run each alone, to answer the others
        for values in window:
            try:
                yield from run_all(self._model, self._template, [values], self._options)
            except PromptError as error:
                yield error

    def _line(self, number: int, answer: Mapping[str, Any]) -> bytes:
        asked = {"line": number + 1, "task": self.name, "run": self._run}
        line = asked | {"input": dict(self.inputs[number])} | dict(answer)
        return json.dumps(line, ensure_ascii=False).encode()


def write_answers(job: Job, out: BinaryIO) -> Answered:
    """Write all answers of ``job`` to ``out``, as they become known."""
    return Answered(0, _append(job, out, 0))


def answer_file(job: Job, out: Path, *, overwrite: bool = False) -> Answered:
    """Append the missing answers to the file ``out``.

    ``overwrite``: replace the contents of the file. Raises ``OptionError`` if ``out`` is not a file
    or, without ``overwrite``, holds anything but the first answers of ``job``. Raises
    ``EdgeseqError`` if another process is writing it. After Ctrl-C the ``KeyboardInterrupt`` has a
    message that says how many answers the file has and how to continue.
    """
    if out.exists() and not out.is_file():
        raise OptionError(f"{out} is not a file: give a file, or - for standard output.")
    with out.open("a+b") as file:
        lock(file, out)
        before = Answered(0, 0) if overwrite else _read(job, file, out)
        if overwrite:
            file.seek(0)
        try:
            failed = _append(job, file, before.before, cut=True)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(_kept(job, file, out, overwrite)) from interrupt
        return Answered(before.before, before.failed + failed)


def _kept(job: Job, file: BinaryIO, out: Path, overwrite: bool) -> str:
    """Say what an interrupted run has written, and how to continue it."""
    replaced = not overwrite or file.tell() > 0  # else the file has its old content, if any
    kept = _read(job, file, out).before if replaced else 0
    if not kept:
        return f"No answers were written to {out}: run the same command again."
    without = " without --overwrite" if overwrite else ""
    return (
        f"{out} has {kept} of {len(job.inputs)} answers: run the same command again{without} to "
        "continue."
    )


def _append(job: Job, file: BinaryIO, done: int, *, cut: bool = False) -> int:
    """Write the answers from number ``done`` on; return how many of them are errors.

    ``cut``: truncate the file at its current position, but only once the first answer is known.
    """
    failed = 0
    with Progress(job.name, len(job.inputs) - done, unit="lines") as progress:
        for line, is_answer in job.lines(done):
            if cut:
                file.truncate()
                cut = False
            file.write(line)
            file.flush()
            failed += not is_answer
            progress(1)
    if cut:
        file.truncate()
    return failed


def _read(job: Job, file: BinaryIO, out: Path) -> Answered:
    """Count the answers in the file and seek their end; ``OptionError`` for any other line."""
    done = failed = end = 0
    file.seek(0)
    for line in file:
        if done == len(job.inputs) or not _is_answer(line, job.begin(done)):
            raise OptionError(
                f"{out}, line {done + 1}, is not the answer to line {done + 1} of the input by "
                "this model, template and options: give another file, or --overwrite."
            )
        if not line.endswith(b"\n"):
            break  # cut off by an interruption
        failed += line.startswith(job.begin(done) + b', "error": ')
        done += 1
        end += len(line)
    file.seek(end)
    return Answered(done, failed)


def _is_answer(line: bytes, begin: bytes) -> bool:
    """Return whether ``line`` is the answer that starts with ``begin``, complete or cut off."""
    if not line.endswith(b"\n"):
        return line.startswith(begin) or begin.startswith(line)
    return line.startswith(begin) and line.endswith(b"}\n")


def _object(where: str, line: str, template: Template) -> Input:
    names = ", ".join(template.fields)
    found = json_object(line, where, f"write an object with {names}")
    if unknown := sorted(found.keys() - {*template.fields}):
        raise PromptError(f"{where} has {unknown[0]!r:.60}; fields are {names}.")
    return found


def check_files(source: Path, out: Path) -> None:
    """Raise ``EdgeseqError`` if the output file is the input file."""
    if out.exists() and source.exists() and out.samefile(source):
        raise EdgeseqError(f"{out} is the input: give another file for the answers.")
