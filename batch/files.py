"""A task on every row of a file: answers in the order of the input, kept after an interruption.

Rows are read, answered and written in windows of some dozens, so that memory does not grow with the
file. Plain JSON Lines are appended to the output itself. Any other form is written to OUTPUT.part,
also as JSON Lines, from which the output is made at the end. To continue after an interruption,
start the same run again: it keeps the complete answers, replaces a line that was cut off and
computes the rest. A lock keeps two runs from writing one output.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..runtime.concurrency.file_lock import lock_file
from ..runtime.errors import EdgeseqError, OptionError
from ..runtime.progress import Progress
from .answering import Answer, Answering, Fields
from .assembling import assemble
from .finished import Finished, finished, other_output
from .forms import Form
from .job import Item, Job
from .source import Rows, Source

WINDOW = 64  # inputs that are batched by length, and whose answers are written together
WINDOW_ROWS = 1024  # rows of a window; some may have an answer already
WINDOW_BYTES = 4 << 20  # bytes of its rows after which a window is closed


class Window(NamedTuple):
    """Rows whose answers are written together; each has its answer, or None if it needs one."""

    entries: list[tuple[Item, bytes | None]]
    kept: int  # answers from an earlier run

    @property
    def inputs(self) -> list[Fields]:
        """The inputs that need an answer."""
        return [item.fields for item, line in self.entries if line is None]


Answers = Callable[[Iterable[Window]], Iterator[tuple[Window, list[Answer]]]]
"""Yields each window with the answers to its inputs, in the order of the windows."""


class Answered(NamedTuple):
    """Numbers of a finished run: of all answers, of those from before, and of errors."""

    rows: int
    before: int
    failed: int


def in_this_process(answering: Answering) -> Answers:
    """Return the answers of one model in this process."""

    def answers(windows: Iterable[Window]) -> Iterator[tuple[Window, list[Answer]]]:
        for window in windows:
            yield window, answering(window.inputs)

    return answers


def write_answers(job: Job, source: Source, answers: Answers, out: BinaryIO) -> Answered:
    """Write all answers of ``job`` to ``out`` as JSON Lines, as they become known."""
    with source.open() as rows:
        run = _Run(job, rows, answers, out)
        run.append((job.item(row), None) for row in rows.rows)
    return Answered(run.rows, run.before, run.failed)


def answer_file(
    job: Job,
    source: Source,
    answers: Answers,
    out: Path,
    form: Form,
    *,
    overwrite: bool = False,
    retry_errors: bool = False,
) -> Answered:
    """Write the missing answers to the file ``out``.

    ``overwrite``: replace the file. ``retry_errors``: replace its errors, whose rows may have been
    corrected since. Raises ``OptionError`` if ``out`` is not a file or, without ``overwrite``,
    holds anything but the first answers of ``job``. Raises ``EdgeseqError`` if another process is
    writing it. After Ctrl-C the ``KeyboardInterrupt`` has a message that says how many answers
    there are and how to continue.
    """
    if out.exists() and not out.is_file():
        raise OptionError(f"{out} is not a file: give a file, or - for standard output.")
    if out.is_symlink():
        out = out.resolve()  # to replace the file, and not the link
    with lock_file(out.with_name(f".{out.name}.lock"), out):
        return _answer_locked(job, source, answers, out, form, overwrite, retry_errors)


def _answer_locked(
    job: Job,
    source: Source,
    answers: Answers,
    out: Path,
    form: Form,
    overwrite: bool,
    retry_errors: bool,
) -> Answered:
    part = out.with_name(f"{out.name}.part")
    grows = form.can_grow and (overwrite or not (retry_errors or part.exists()))
    work = out if grows else part
    with ExitStack() as stack:
        rows = stack.enter_context(source.open())
        old = None
        if not grows and not overwrite and out.exists() and out.stat().st_size:
            old = stack.enter_context(finished(job, out, form))
        work.touch()
        stack.push(lambda kind, *_: _remove_empty(part) if kind is not None else None)
        file = stack.enter_context(work.open("r+b"))

        def cut() -> None:
            file.truncate()
            if overwrite:
                (part if grows else out).unlink(missing_ok=True)

        run = _Run(job, rows, answers, file, cut)
        items = (job.item(row) for row in rows.rows)
        pairs = _with_answers(job, items, old, retry_errors)
        if not overwrite:
            pairs = run.read(pairs, work)
        kept = run.before
        try:
            run.append(pairs)
        except KeyboardInterrupt as interrupt:
            # Else an output that is to be overwritten still has its old content.
            written = run.was_cut or not overwrite
            raise KeyboardInterrupt(_kept(work, written, overwrite)) from interrupt
        if old is not None:
            old.end()
        file.flush()
        os.fsync(file.fileno())
    if not grows:
        if old is not None and kept == 0 and run.before == run.rows:
            pass  # the output has all of these answers
        elif form.can_grow:
            part.replace(out)
        else:
            assemble(job, source, rows.columns, part, out, form)
        part.unlink(missing_ok=True)
    return Answered(run.rows, run.before, run.failed)


def _remove_empty(part: Path) -> None:
    if part.exists() and not part.stat().st_size:
        part.unlink()


class _Run:
    """A run that appends answers to ``file``, which may have some already.

    ``cut``: is called at the end of the answers that stay, once the first further ones are known.
    """

    def __init__(
        self,
        job: Job,
        source: Rows,
        answers: Answers,
        file: BinaryIO,
        cut: Callable[[], None] = lambda: None,
    ) -> None:
        self.rows = self.before = self.failed = 0
        self.was_cut = False
        self._job, self._source, self._answers, self._file = job, source, answers, file
        self._cut = cut

    def read(
        self, pairs: Iterator[tuple[Item, bytes | None]], path: Path
    ) -> Iterator[tuple[Item, bytes | None]]:
        """Count the answers that are there and seek their end; return the rows without one.

        Raises ``OptionError`` for any other line.
        """
        end = 0
        for line in self._file:
            pair = next(pairs, None)
            if pair is None or not self._job.is_answer(line, pair[0]):
                raise other_output(path, self.rows + 1)
            if not line.endswith(b"\n"):
                pairs = chain([pair], pairs)  # cut off by an interruption
                break
            self.failed += self._job.is_error(line, pair[0])
            self.rows += 1
            end += len(line)
        self.before = self.rows
        self._file.seek(end)
        return pairs

    def append(self, pairs: Iterator[tuple[Item, bytes | None]]) -> None:
        """Write the answers to further rows."""
        job = self._job
        with Progress(job.name, None, unit="rows", share=self._share()) as progress:
            for window, answers in self._answers(_windows(job, pairs)):
                lines, answer = [], iter(answers)
                for item, line in window.entries:
                    lines.append(job.written(item, next(answer)) if line is None else line)
                    self.failed += job.is_error(lines[-1], item)
                self._cut_once()
                self._file.write(b"".join(lines))
                self._file.flush()
                self.rows += len(lines)
                self.before += window.kept
                progress(len(lines))
        self._cut_once()

    def _share(self) -> Callable[[], float]:
        """Return a function for the share of the rows from here on that is read."""
        share = self._source.share
        start = share()
        return lambda: (share() - start) / (1 - start) if start < 1 else 1.0

    def _cut_once(self) -> None:
        if not self.was_cut:
            self.was_cut = True
            self._cut()


def _with_answers(
    job: Job, items: Iterable[Item], old: Finished | None, retry_errors: bool
) -> Iterator[tuple[Item, bytes | None]]:
    """Yield each row with its answer in an older output, or None."""
    for item in items:
        line = old.take(item, corrected=retry_errors) if old is not None else None
        if line is not None and retry_errors and job.is_error(line, item):
            line = None
        yield item, line


def _windows(job: Job, pairs: Iterable[tuple[Item, bytes | None]]) -> Iterator[Window]:
    """Yield the rows in windows; a row that cannot be read has its error as the answer."""
    entries: list[tuple[Item, bytes | None]] = []
    needed = kept = size = 0
    for item, found in pairs:
        line = found
        if line is not None:
            kept += 1
        elif item.fault is not None:
            line = job.written(item, Answer("", None, item.fault))
        entries.append((item, line))
        needed += line is None
        size += len(item.begin) + len(line or b"")
        if needed == WINDOW or len(entries) == WINDOW_ROWS or size >= WINDOW_BYTES:
            yield Window(entries, kept)
            entries, needed, kept, size = [], 0, 0, 0
    if entries:
        yield Window(entries, kept)


def _kept(work: Path, written: bool, overwrite: bool) -> str:
    """Say what an interrupted run has written, and how to continue it."""
    count = 0
    if written:
        with work.open("rb") as file:
            count = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    if not count:
        return f"No answers were written to {work}: run the same command again."
    without = " without --overwrite" if overwrite else ""
    answers = f"{count} answer{'s' * (count != 1)}"
    return f"{work} has {answers}: run the same command again{without} to continue."


def check_files(source: Path, out: Path) -> None:
    """Raise ``EdgeseqError`` if the output file is the input file."""
    if out.exists() and source.exists() and out.samefile(source):
        raise EdgeseqError(f"{out} is the input: give another file for the answers.")
