"""A task on every line of a file, its answers a file of JSON lines that can be gone on with.

Answers are written in the order of the inputs, some dozens at a time; an input that the model
cannot serve has an error in the place of its answer. A run that was interrupted is given again:
answers that are there stay, a line that was cut off is made anew, and the rest is appended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ..errors import EdgeseqError, OptionError, PromptError
from ..progress import Progress
from ..text.lines import decode_utf8, json_object, split_lines
from .runs import Input, TaskResult, run_all
from .templates import Template

if TYPE_CHECKING:
    from ..model import Model

STANDARD = "-"  # standard input or output, in the place of a file
WINDOW = 64  # inputs that are sorted by length among themselves, and whose answers come together


def read_inputs(path: Path, template: Template) -> list[Input]:
    """An input a line: a text for the template's first field, or in a .jsonl file an object.

    ``-`` is standard input, with texts. Raises ``PromptError`` for a line that is no input.
    """
    content = sys.stdin.buffer.read() if str(path) == STANDARD else path.read_bytes()
    text = decode_utf8(content, path)
    lines = split_lines(text) if text else []
    if path.suffix != ".jsonl":
        return [{template.fields[0]: line} for line in lines]
    return [_object(f"{path}, line {i}", line, template) for i, line in enumerate(lines, 1)]


class Answered(NamedTuple):
    """How many answers were there already, and how many inputs could not be served, in all."""

    before: int
    failed: int


class Job:
    """The answers to ``inputs`` as lines.

    ``loading``: how the model was loaded, where answers depend on it. Raises ``OptionError`` for a
    template that is not for this kind of model, ``PromptError`` for an input that lacks a field.
    """

    def __init__(
        self,
        model: Model,
        template: Template,
        inputs: Sequence[Input],
        options: Mapping[str, Any],
        loading: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        manifest = model.bundle.manifest
        form = template.form(manifest.kind)
        for i, values in enumerate(inputs, 1):
            try:
                template.prompt(manifest.kind, values)
            except PromptError as error:
                raise PromptError(f"Input line {i}: {error}") from error
        self.inputs = inputs
        self.name = template.name
        self._model, self._template, self._options = model, template, options
        files = {name: file.sha256 for name, file in manifest.files.items()}
        defaults = [dict(template.defaults), manifest.generation]
        told = [files, asdict(form), defaults, dict(options), dict(loading)]
        known = json.dumps(told, sort_keys=True, default=repr).encode()
        # Names all that answers depend on beside the input.
        self._run = sha256(known).hexdigest()[:12]

    def begin(self, number: int) -> bytes:
        """What the line of an answer begins with: what was asked."""
        return self._line(number, {})[: -len("}")]

    def lines(self, first: int) -> Iterator[tuple[bytes, bool]]:
        """The lines from ``first`` on, and whether they are answers: an error else."""
        for start in range(first, len(self.inputs), WINDOW):
            window = self.inputs[start : start + WINDOW]
            for number, found in enumerate(self._answers(window), start):
                if isinstance(found, PromptError):
                    yield self._line(number, {"error": str(found)}) + b"\n", False
                    continue
                answer: dict[str, Any] = {"output": found.text}
                if found.probabilities is not None:
                    answer |= {"probabilities": found.probabilities}
                yield self._line(number, answer) + b"\n", True

    def _answers(self, window: Sequence[Input]) -> Iterator[TaskResult | PromptError]:
        try:
            yield from run_all(self._model, self._template, window, self._options)
            return
        except PromptError:
            pass  # one of them: the others are answered
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
    """All answers of ``job``, as they come."""
    return Answered(0, _append(job, out, 0))


def answer_file(job: Job, out: Path, *, overwrite: bool = False) -> Answered:
    """Append the answers that ``out`` lacks to it.

    Raises ``OptionError`` where ``out`` holds something else than the first answers of ``job``,
    unless ``overwrite``, ``EdgeseqError`` where another process is writing it.
    """
    if out.exists() and not out.is_file():
        raise OptionError(f"{out} is no file: give one, or - for standard output.")
    with out.open("a+b") as file:
        lock(file, out)
        before = Answered(0, 0) if overwrite else _read(job, file, out)
        if overwrite:
            file.seek(0)
        return Answered(before.before, before.failed + _append(job, file, before.before, cut=True))


def _append(job: Job, file: BinaryIO, done: int, *, cut: bool = False) -> int:
    """Write the answers from the ``done``-th on; how many are errors.

    ``cut``: what is behind the file's place goes, but not before there is something to write.
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
    """The answers that are there; the file is read up to their end."""
    done = failed = end = 0
    file.seek(0)
    for line in file:
        if done == len(job.inputs) or not _is_answer(line, job.begin(done)):
            raise OptionError(
                f"{out}, line {done + 1}, is not the answer to line {done + 1} of the input by "
                "this model, template and options: give another file, or --overwrite."
            )
        if not line.endswith(b"\n"):
            break  # what an interruption left of it
        failed += line.startswith(job.begin(done) + b', "error": ')
        done += 1
        end += len(line)
    file.seek(end)
    return Answered(done, failed)


def _is_answer(line: bytes, begin: bytes) -> bool:
    """Whether a line is the answer that begins so, or was on the way to become it."""
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
    """Refuse an output that is the input."""
    if out.exists() and source.exists() and out.samefile(source):
        raise EdgeseqError(f"{out} is the input: give another file for the answers.")


if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def lock(file: IO[Any], path: Path) -> None:
    """Keep others from locking ``file``, which is at ``path``, until it is closed.

    Raises ``EdgeseqError`` where another has. The system lets go of it when a process ends.
    """
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise EdgeseqError(f"Another run is writing {path}: wait for its end.") from error
