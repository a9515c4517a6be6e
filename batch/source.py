"""The input of a file run: its rows, one after another, with the fields of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..runtime.errors import PromptError
from ..runtime.tables.row import Part, Row
from ..runtime.tables.table import TEXT_COLUMN, format_of, open_table
from .columns import Columns

LOOKED_AT = 64  # rows of JSON Lines of which at least one must have the task's columns, or
LOOKED_AT_CHARACTERS = 1 << 20  # as many rows as have so many characters


class Rows(NamedTuple):
    """The rows of an input; ``columns`` is None if each row has columns of its own."""

    rows: Iterator[Row]
    columns: Sequence[str] | None
    found: Sequence[str]  # the columns of the first rows
    share: Callable[[], float]  # how much of the input is read, from 0 to 1


@dataclass(frozen=True)
class Source:
    """An input file, or ``stream``, which is read once; ``path`` is then its name in errors.

    ``format``: one of the formats of ``open_table``.
    """

    path: Path
    columns: Columns
    format: str
    stream: BinaryIO | None = None
    part: Part | None = None  # of the file, None: all of it

    @contextmanager
    def open(self) -> Iterator[Rows]:
        """Read the input from its beginning.

        A line of plain text is the first field of the task. Raises ``PromptError`` for a file that
        cannot be read, or has no column for a field. A row that cannot be read has a fault.
        """
        with open_table(self.path, format=self.format, stream=self.stream, part=self.part) as table:
            rows: Iterator[Row] = iter(table)
            columns = table.columns
            if self.format == "text":
                [name] = (
                    c for c, field in self.columns.field_of.items() if field == self.columns.first
                )
                columns = [name]
                rows = (
                    Row(line, values if fault else {name: values[TEXT_COLUMN]}, fault)
                    for line, values, fault in rows
                )
            elif columns is not None:
                self.columns.check(columns, str(self.path))
            found = columns
            if found is None:
                beginning = _beginning(rows)
                found = list(dict.fromkeys(name for row in beginning for name in row.values))
                if any(not row.fault for row in beginning):
                    self.columns.check(found, str(self.path))
                rows = chain(beginning, rows)
            yield Rows(rows, columns, found, table.share)


def _beginning(rows: Iterator[Row]) -> list[Row]:
    found: list[Row] = []
    size = 0
    for row in islice(rows, LOOKED_AT):
        found.append(row)
        size += sum(len(value) for value in row.values.values() if isinstance(value, str))
        if size >= LOOKED_AT_CHARACTERS:
            break
    return found


def source_of(
    path: Path, columns: Columns, *, format: str | None = None, stream: BinaryIO | None = None
) -> Source:
    """Return an input, in the format of its suffix unless ``format`` says another one."""
    if stream is None and not path.exists():
        raise PromptError(f"There is no file {path}.")
    return Source(path, columns, format or format_of(path), stream)
