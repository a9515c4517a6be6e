"""A file as a table: ``open_table`` finds its format and reads its rows one after another.

Memory does not grow with the file. Formats are found by the suffix, before a ``.gz``:

    .jsonl, .ndjson   an object of JSON on each line
    .csv              a header and rows, delimited by commas (or semicolons, if the header is)
    .tsv              a header and rows, delimited by tabs
    .parquet, .pq     Parquet
    any other         plain text: each line is a row
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ..errors import OptionError, PromptError, reason
from .delimited import Delimited
from .lines import Lines
from .parquet import Parquet
from .row import NOTHING, Part, Row, RowError, counted, kind_of, shortened

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
TEXT_COLUMN = "text"  # the column of a plain text, unless others are asked for
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
INSTEAD = {".json": "JSON Lines (.jsonl), an object on each line", ".xlsx": "CSV", ".xls": "CSV"}


class Table:
    """The rows of a file: an iterator, and a context manager that closes the file."""

    def __init__(
        self,
        columns: Sequence[str] | None,
        rows: Iterator[Row],
        share: Callable[[], float],
        close: Callable[[], None],
    ) -> None:
        self.columns = columns  # None: each row has columns of its own
        self.share = share  # how much of the file is read, from 0 to 1; 0 if that is unknown
        self._rows, self._close = rows, close

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()


def format_of(path: Path) -> str:
    """Return the format of a file by its suffix; raise ``PromptError`` for one that is not read."""
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix in INSTEAD:
        raise PromptError(f"{path}: {suffix} files are not read, give {INSTEAD[suffix]}.")
    return SUFFIXES.get(suffix, "text")


def open_table(
    path: Path,
    *,
    format: str | None = None,
    columns: Sequence[str] | None = None,
    advice: str = "rename a column, or choose another one",
    stream: BinaryIO | None = None,
    part: Part | None = None,
) -> Table:
    """Return the rows of a file.

    ``format``: one of ``FORMATS``; None for that of the suffix. ``columns``: the columns that the
    caller uses. The file must have them; only in JSON Lines each row is looked at instead. In a
    plain text they are the names of what is between tabs. Without them a row of a plain text has
    the whole line as ``text``. ``advice``: the next step in the error for a missing column.
    ``stream``: is read instead of the file, and stays open; ``path`` is its name in errors. Parquet
    is not read from a stream. ``part``: a part of a file of Parquet, or of JSON Lines that is not
    compressed; the part of JSON Lines is read into memory.

    Raises ``PromptError`` for a file that is missing or cannot be read, ``MissingPackageError`` if
    the format needs a package. A row that cannot be read has a ``fault``.
    """
    if format is not None and format not in FORMATS:
        raise OptionError(f"format is {format!r:.60}; it must be one of {', '.join(FORMATS)}.")
    kind = format or format_of(path)
    with ExitStack() as stack:
        found, rows, share = _opened(path, kind, columns, stack, stream, part)
        for name in columns or () if found is not None else ():
            _check_column(path, name, found or (), advice)
        return Table(found, rows, share, stack.pop_all().close)


def _opened(
    path: Path,
    kind: str,
    columns: Sequence[str] | None,
    stack: ExitStack,
    stream: BinaryIO | None,
    part: Part | None,
) -> tuple[Sequence[str] | None, Iterator[Row], Callable[[], float]]:
    """Return the columns and the rows of a file that ``stack`` closes, and its ``share``."""
    if kind == "parquet":
        if stream is not None:
            raise PromptError(f"Parquet cannot be read from {path}: give a file.")
        parquet = stack.enter_context(closing(Parquet(path, part)))
        known = [name for name in columns or () if name in parquet.columns]
        return parquet.columns, parquet.rows(known or None), parquet.share
    if part is not None:
        stream = BytesIO(_content(path, part))
    before = part.before if part is not None else 0
    lines = stack.enter_context(closing(Lines(path, stream, before)))
    if kind == "text":
        names = list(columns or [TEXT_COLUMN])
        return names, _rows(lines, lambda line: _parts(line, names)), lines.share
    if kind == "jsonl":
        return None, _rows(lines, _object), lines.share
    delimited = Delimited(path, lines, "," if kind == "csv" else "\t")
    return delimited.columns, delimited.rows(), lines.share


def _content(path: Path, part: Part) -> bytes:
    with path.open("rb") as file:
        file.seek(part.begin)
        return file.read(part.end - part.begin)


def _check_column(path: Path, name: str, found: Sequence[str], advice: str) -> None:
    if found.count(name) == 1:
        return
    if name in found:
        raise PromptError(f"{path} has several columns {shortened(name)}: give each its own name.")
    names = ", ".join(map(shortened, found))
    raise PromptError(f"{path} has no column {shortened(name)} (it has {names:.300}): {advice}.")


def _rows(lines: Lines, read: Callable[[str], Mapping[str, Any] | None]) -> Iterator[Row]:
    """Yield a row for each line of which ``read`` makes values and not None."""
    for number, text, fault, _ in lines:
        if fault:
            yield Row(number, NOTHING, fault)
            continue
        try:
            values = read(text)
        except RowError as error:
            yield Row(number, NOTHING, str(error))
            continue
        if values is not None:
            yield Row(number, values)


def _parts(line: str, names: Sequence[str]) -> Mapping[str, Any]:
    values = line.split("\t") if len(names) > 1 else [line]
    if len(values) != len(names):
        raise RowError(
            f"the line has {counted(len(values) - 1, 'tab')} and not {len(names) - 1} (between "
            f"{' and '.join(names)})"
        )
    return dict(zip(names, values, strict=True))


def _object(line: str) -> Mapping[str, Any] | None:
    if not line or line.isspace():
        return None
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError(f"the line is not valid JSON ({reason(error)})") from error
    if not isinstance(values, dict):
        raise RowError(f"the line is not a JSON object but {kind_of(values)}")
    return values
