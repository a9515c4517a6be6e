"""An output that is there already, read again to continue it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..runtime.errors import OptionError
from ..runtime.tables.lines import DAMAGED
from ..runtime.tables.row import Row
from ..runtime.tables.table import open_table
from .answering import Answer
from .columns import ERROR, LINE, PROBABILITIES, RUN, TASK
from .forms import Form, flat_row
from .job import Item, Job
from .values import as_text


class Finished:
    """The answers of an earlier output, one after another as lines of JSON."""

    def __init__(self, job: Job, out: Path, form: Form, lines: Iterator[Any]) -> None:
        self._job, self._out, self._form, self._lines = job, out, form, lines
        self._taken = 0

    def take(self, item: Item, *, corrected: bool = False) -> bytes | None:
        """Return the answer to the next row, ``item``; None at the end.

        ``corrected``: the row of an error may have changed since. Raises ``OptionError`` for
        anything but the answer to this row.
        """
        found = self._next()
        if found is None:
            return None
        line = found if isinstance(found, bytes) else self._line(found, item, corrected)
        if line is not None and self._job.is_answer(line, item):
            return line if line.endswith(b"\n") else None
        if corrected and line is not None and self._job.is_beginning(line, item):
            return None  # cut off by an interruption, and the row has changed since
        if corrected and line is not None and self._job.was_error(line, item):
            return self._job.written(item, Answer("", None, "corrected"))
        raise self._other()

    def end(self) -> None:
        """Raise ``OptionError`` if there are more answers."""
        if self._next() is not None:
            raise self._other()

    def _next(self) -> Any:
        try:
            found = next(self._lines, None)
        except DAMAGED as error:
            raise self._other() from error
        self._taken += found is not None
        return found

    def _other(self) -> OptionError:
        return other_output(self._out, max(self._taken, 1))

    def _line(self, row: Row, item: Item, corrected: bool) -> bytes | None:
        """Return a row of a table as a line of JSON; None if it is not an answer to ``item``."""
        columns, values = self._job.columns, dict(row.values)
        head = [as_text(values.pop(name, None)) for name in (LINE, TASK, RUN)]
        if row.fault or head != [str(item.line), self._job.name, self._job.run]:
            return None
        error, output = values.pop(ERROR, None), values.pop(columns.output, None)
        probabilities = values.pop(PROBABILITIES, None) or None
        if error and corrected:
            return self._job.written(item, Answer("", None, as_text(error)))
        expected = flat_row(self._job, json.loads(item.begin + b"}"))
        if _texts(values) != _texts(expected):
            return None
        try:
            if isinstance(probabilities, str):
                probabilities = json.loads(probabilities)
            probabilities = None if probabilities is None else dict(probabilities)
        except (TypeError, ValueError):
            return None
        answer = Answer(as_text(output), probabilities, as_text(error) if error else None)
        return self._job.written(item, answer)


def other_output(out: Path, number: int) -> OptionError:
    """Return the error for an output that is not of this job."""
    return OptionError(
        f"{out}, line {number}, is not the answer to line {number} of the input by this model, "
        "template and options: give another file, or --overwrite."
    )


@contextmanager
def finished(job: Job, out: Path, form: Form) -> Iterator[Finished]:
    """Open an output that is there already."""
    if form.format == "jsonl":
        with _opened(out, form) as file:
            yield Finished(job, out, form, iter(file))
    else:
        with open_table(out, format=form.format) as table:
            if list(table.columns or ())[:3] != [LINE, TASK, RUN]:
                raise other_output(out, 1)
            yield Finished(job, out, form, iter(table))


def _opened(path: Path, form: Form) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if form.packed else path.open("rb")


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name, value in values.items() if (text := as_text(value))}
