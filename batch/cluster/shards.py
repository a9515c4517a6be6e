"""The input of a job on a cluster: its files, and the shards that they are cut into."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

from ...runtime.errors import OptionError, PromptError
from ...runtime.tables.row import MISSING, Part, Row, shortened
from ...runtime.tables.table import format_of, open_table
from ..columns import Columns
from ..source import Rows, Source

SHARD_ROWS = 1024  # default number of rows of a shard
SHARD_BYTES = 64 << 20  # bytes of JSON Lines after which a shard is closed
BLOCK = 1 << 20  # bytes that are read at a time
FORMATS = ("jsonl", "parquet")
ROW_ID = "row_id"  # the column of ids that are made


class InputFile(NamedTuple):
    """A file of the input, as it was when the job began."""

    path: Path
    name: str  # its path in the input folder, with slashes
    format: str  # one of FORMATS
    size: int  # bytes
    time: int  # when it was changed, in nanoseconds
    sha256: str = ""

    def is_unchanged(self) -> bool:
        """Return whether the file has the same size and time."""
        found = self.path.stat()
        return (found.st_size, found.st_mtime_ns) == (self.size, self.time)


@dataclass(frozen=True)
class Shard:
    """A part of a file that one worker answers."""

    number: int  # from 0, in the order of the input
    file: InputFile
    part: Part
    rows: int

    def name(self, format: str) -> str:
        """Return the name of its file in the output folder."""
        return f"part-{self.number:05}.{format}"


def input_files(input: Path) -> list[InputFile]:
    """Return the files of an input, which is a file or a folder, in the order of their names.

    Names that begin with ``.`` or ``_`` are left out. Raises ``PromptError`` if there is no file,
    or one that is neither Parquet nor JSON Lines.
    """
    if not input.exists():
        raise PromptError(f"There is no file or folder {input}: give the path of the input.")
    input = input.resolve()
    if input.is_dir():
        found = [path for path in input.rglob("*") if path.is_file()]
        names = {path.relative_to(input).as_posix(): path for path in found}
        names = {name: path for name, path in names.items() if not _is_hidden(name)}
    else:
        names = {input.name: input}
    if not names:
        raise PromptError(f"{input} has no files: give a folder with Parquet or JSON Lines.")
    return [_input_file(names[name], name) for name in sorted(names)]


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _input_file(path: Path, name: str) -> InputFile:
    if path.suffix.lower() == ".gz" or format_of(path) not in FORMATS:
        raise PromptError(
            f"{path} is neither Parquet (.parquet) nor plain JSON Lines (.jsonl), which --ray "
            "reads: move it out of the input, or convert it."
        )
    found = path.stat()
    return InputFile(path, name, format_of(path), found.st_size, found.st_mtime_ns)


def shards_of(files: Sequence[InputFile], rows: int) -> list[Shard]:
    """Return the shards of ``files``, of at most ``rows`` rows each; every file has its hash then.

    Shards of JSON Lines are closed after 64 MB, too. Shards of Parquet keep row groups together
    that have at most ``rows`` rows.
    """
    shards: list[Shard] = []
    for file in files:
        digest = sha256()
        if file.format == "parquet":
            with file.path.open("rb") as content:
                for block in iter(lambda: content.read(BLOCK), b""):
                    digest.update(block)
            cut = list(_parts_of_parquet(file.path, rows))
        else:
            cut = list(_parts_of_lines(file.path, rows, digest))
        hashed = file._replace(sha256=digest.hexdigest())
        first = len(shards)
        shards += [Shard(first + i, hashed, part, count) for i, (part, count) in enumerate(cut)]
    return shards


def _parts_of_lines(path: Path, limit: int, digest: Any) -> Iterator[tuple[Part, int]]:
    """Yield the parts of a file of JSON Lines, and their rows; ``digest`` gets the content."""
    begin = end = before = lines = rows = 0
    is_filled = False
    with path.open("rb") as file:
        for piece in iter(lambda: file.readline(BLOCK), b""):
            digest.update(piece)
            end += len(piece)
            is_filled = is_filled or not piece.isspace()
            if not piece.endswith(b"\n"):
                continue
            lines += 1
            rows += is_filled
            is_filled = False
            if rows == limit or (rows and end - begin >= SHARD_BYTES):
                yield Part(before, begin, end), rows
                begin, before, rows = end, lines, 0
    if rows or is_filled:
        yield Part(before, begin, end), rows + is_filled


def _parts_of_parquet(path: Path, limit: int) -> Iterator[tuple[Part, int]]:
    with open_table(path):  # its errors are sentences
        pass
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    begin = end = 0
    for count in [*groups, 0]:
        is_last = count == 0
        if end > begin and (is_last or end + count - begin > limit):
            yield Part(begin, begin, end), end - begin
            begin = end
        end += count
        while end - begin > limit:
            yield Part(begin, begin, begin + limit), limit
            begin += limit


def check_columns(files: Sequence[InputFile], columns: Columns, id_column: str | None) -> list[str]:
    """Return the columns of the first rows of ``files``.

    Raises ``PromptError`` for a file that has no column for a field of the task or for ids.
    """
    found: dict[str, None] = {}
    for file in files:
        with Source(file.path, columns, file.format).open() as rows:
            names = [*rows.found]
        if id_column is None and ROW_ID in names:
            raise PromptError(
                f"{file.path} has a column {ROW_ID!r}, the name of the ids that are made: give "
                f"--id-column {ROW_ID}, or rename it."
            )
        if id_column is not None and names and id_column not in names:
            shown = ", ".join(map(shortened, names))
            raise PromptError(
                f"{file.path} has no column {shortened(id_column)} (it has {shown:.200}): name the "
                "column of ids with --id-column, or leave it out."
            )
        found |= dict.fromkeys(names)
    return list(found)


def check_ids(files: Sequence[InputFile], column: str) -> None:
    """Raise ``PromptError`` if two rows have the same id in ``column``.

    Hashes of 8 bytes are compared, so 10 million ids need some 160 MB for a moment.
    """
    import numpy

    hashes = array("Q", (_hashed(value) for value, _ in _ids(files, column)))
    ordered = numpy.sort(numpy.frombuffer(hashes, numpy.uint64)) if hashes else numpy.empty(0)
    repeated = {int(one) for one in ordered[1:][ordered[1:] == ordered[:-1]]}
    if not repeated:
        return
    places: dict[str, str] = {}
    for value, place in _ids(files, column):
        if _hashed(value) in repeated and places.setdefault(value, place) != place:
            raise PromptError(
                f"Two rows have the {column} {value:.60}, {places[value]} and {place}: make ids "
                "unique, or leave out --id-column."
            )


def _hashed(value: str) -> int:
    return int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "little")


def _ids(files: Sequence[InputFile], column: str) -> Iterator[tuple[str, str]]:
    """Yield each id as JSON, and its place; rows without an id are left out."""
    for file in files:
        with open_table(file.path, format=file.format, columns=[column]) as table:
            for row in table:
                value = row.values.get(column)
                if value is not None:
                    shown = value if isinstance(value, str) else str(value)
                    yield json.dumps(shown), f"{file.name}:{row.line}"


@dataclass(frozen=True)
class ShardSource(Source):
    """The rows of a shard, with an id each: of ``id_column``, or of file and line."""

    file_name: str = ""
    id_column: str | None = None

    @contextmanager
    def open(self) -> Iterator[Rows]:
        """Read the shard; a row that has no field of the task, or no id, has an error later."""
        with open_table(self.path, format=self.format, part=self.part) as table:
            columns = table.columns
            if columns is not None and self.id_column is None:
                columns = [ROW_ID, *columns]
            rows = (self._with_id(row) for row in table)
            yield Rows(rows, columns, columns or [], table.share)

    def _with_id(self, row: Row) -> Row:
        if self.id_column is None:
            made = {ROW_ID: f"{self.file_name}:{row.line}"}
            fault = row.fault
            if ROW_ID in row.values:
                fault = f"the row has a column {ROW_ID}, the name of the ids that are made"
            return Row(row.line, {**row.values, **made}, fault)
        if not row.fault and row.values.get(self.id_column) is None:
            return row._replace(fault=f"{MISSING} {shortened(self.id_column)}, the column of ids")
        return row


def shard_source(shard: Shard, columns: Columns, id_column: str | None) -> ShardSource:
    """Return the input of a shard; raise ``PromptError`` if its file has changed."""
    file = shard.file
    if not file.path.exists():
        raise PromptError(
            f"{file.path} is not on every machine of the cluster: the input must be in a folder "
            "that they share, under the same path."
        )
    if not file.is_unchanged():
        raise PromptError(f"{file.path} has changed since the job began: give another --output.")
    return ShardSource(
        file.path,
        columns,
        file.format,
        part=shard.part,
        file_name=file.name,
        id_column=id_column,
    )


def check_shard_rows(rows: int) -> None:
    """Raise ``OptionError`` for a number of rows that a shard cannot have."""
    if rows < 1:
        raise OptionError(f"--shard-rows is {rows}; it must be at least 1.")
