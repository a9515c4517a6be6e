"""Parquet files; needs pyarrow (the extra ``parquet``), which no other module imports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingPackageError, PromptError, reason
from .lines import check_file
from .row import NOTHING, Row

BATCH = 256  # rows that are in memory as Python's objects


class Parquet:
    """The columns and the rows of a Parquet file.

    Raises ``MissingPackageError`` without pyarrow, ``PromptError`` for a file it cannot read.
    """

    def __init__(self, path: Path) -> None:
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

    def _unreadable(self, error: Exception) -> PromptError:
        return PromptError(
            f"{self._path} cannot be read as a Parquet file ({reason(error)}): write it again."
        )

    def rows(self, columns: Sequence[str] | None) -> Iterator[Row]:
        """Yield the rows with ``columns``, or with all of them."""
        number = 0
        try:
            for batch in self._file.iter_batches(BATCH, columns=columns):
                for values in _objects(batch):
                    number += 1
                    fault = "a value is not valid UTF-8" if values is None else ""
                    yield Row(number, NOTHING if values is None else values, fault)
        except self._errors as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
