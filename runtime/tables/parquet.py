"""Parquet files; needs pyarrow (the extra ``parquet``), which no other module imports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingPackageError, PromptError, reason
from .lines import check_file
from .row import NOTHING, Part, Row

BATCH = 256  # rows that are in memory as Python's objects


class Parquet:
    """The columns and the rows of a Parquet file.

    ``part``: the rows to read; None for all. Raises ``MissingPackageError`` without pyarrow,
    ``PromptError`` for a file it cannot read.
    """

    def __init__(self, path: Path, part: Part | None = None) -> None:
        check_file(path)
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise MissingPackageError(
                f"Reading {path} needs pyarrow: install the extra 'parquet' "
                '(python -m pip install "edgeseq[parquet]").'
            ) from error
        self._path, self._errors = path, (pyarrow.ArrowException, OSError)
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except self._errors as error:
            raise self._unreadable(error) from error
        self.columns: Sequence[str] = self._file.schema_arrow.names
        self._part, self._read = part, 0

    def _unreadable(self, error: Exception) -> PromptError:
        return PromptError(
            f"{self._path} cannot be read as a Parquet file ({reason(error)}): write it again."
        )

    def rows(self, columns: Sequence[str] | None) -> Iterator[Row]:
        """Yield the rows with ``columns``, or with all of them."""
        number = self._part.before if self._part is not None else 0
        try:
            for batch in batches(self._file, BATCH, self._part, columns):
                for values in _objects(batch):
                    number += 1
                    self._read += 1
                    fault = "a value is not valid UTF-8" if values is None else ""
                    yield Row(number, NOTHING if values is None else values, fault)
        except self._errors as error:
            raise self._unreadable(error) from error

    def share(self) -> float:
        """Return how much of the file is read, from 0 to 1."""
        part = self._part
        count = self._file.metadata.num_rows if part is None else part.end - part.begin
        return self._read / count if count else 1.0

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def batches(
    file: Any, size: int, part: Part | None = None, columns: Sequence[str] | None = None
) -> Iterator[Any]:
    """Yield the rows of a ``ParquetFile`` as record batches of at most ``size`` rows.

    Of the row groups, only those with rows of ``part`` are read.
    """
    if part is None:
        yield from file.iter_batches(size, columns=columns)
        return
    groups: list[int] = []
    skipped = start = 0
    for i in range(file.num_row_groups):
        end = start + file.metadata.row_group(i).num_rows
        if start < part.end and part.begin < end:
            skipped = skipped if groups else part.begin - start
            groups.append(i)
        start = end
    missing = part.end - part.begin
    for batch in file.iter_batches(size, row_groups=groups, columns=columns):
        found = batch.slice(skipped, missing)
        skipped = max(0, skipped - batch.num_rows)
        missing -= found.num_rows
        if found.num_rows:
            yield found
        if not missing:
            return


def _objects(batch: Any) -> Iterator[dict[str, Any] | None]:
    """Yield the values of each row, or None if a string in it is not valid UTF-8."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for i in range(batch.num_rows):
        try:
            yield batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield None
