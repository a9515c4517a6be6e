"""From files to examples: pairs and documents, and the rows that are neither."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...runtime.errors import PromptError
from ...runtime.tables.lines import check_file
from ...runtime.tables.row import Row, RowError
from ...runtime.tables.table import format_of, open_table
from ..template import DataSettings
from .examples import Example, FileFacts, Pair, Unusable


@dataclass(frozen=True)
class Content:
    """What several files hold."""

    examples: list[Example] = field(default_factory=list)
    files: list[FileFacts] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The number of rows that were read, usable or not."""
        return sum(file.rows for file in self.files) + len(self.unusable)


def read_files(settings: DataSettings, files: Sequence[Path]) -> Content:
    """Return the examples of ``files``; raise ``PromptError`` for a file that cannot be read."""
    content = Content()
    for path in files:
        check_file(path)
        if not path.is_file():
            raise PromptError(f"{path} is not a regular file: write the data to one.")
        size, digest = _identity(path)
        usable = _read_file(settings, path, content)
        if not usable and not any(row.file == path for row in content.unusable):
            raise PromptError(f"{path} has no {_rows_of(settings, path)}: give a file with some.")
        content.files.append(FileFacts(path.name, size, digest, usable))
    return content


def _identity(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _is_plain(settings: DataSettings, path: Path) -> bool:
    return (settings.format or format_of(path)) == "text"


def _rows_of(settings: DataSettings, path: Path) -> str:
    return "text" if settings.form == "text" and _is_plain(settings, path) else "rows"


def _read_file(settings: DataSettings, path: Path, content: Content) -> int:
    """Add what a file holds to ``content``; return the number of usable rows."""
    if settings.form == "text" and _is_plain(settings, path):
        return _read_plain_text(settings, path, content)
    columns, usable = columns_of(settings), 0
    with open_table(
        path, format=settings.format, columns=columns, advice=columns_advice(settings)
    ) as table:
        for row in table:
            try:
                values = [_filled(row, name) for name in columns]
            except RowError as error:
                content.unusable.append(Unusable(path, row.line, str(error)))
                continue
            usable += 1
            content.examples.append(Pair(*values) if settings.form == "pairs" else values[0])
    return usable


def columns_of(settings: DataSettings) -> list[str]:
    """Return the columns that examples are read from."""
    if settings.form == "text":
        return [settings.text_column]
    return [settings.source_column, settings.target_column]


def columns_advice(settings: DataSettings) -> str:
    """Return what to do about a column that is missing, as a part of a sentence."""
    if settings.form == "text":
        return "give data.text_column the name of a column"
    return "give data.source_column and data.target_column the names of two columns"


def _filled(row: Row, column: str) -> str:
    text = row.text(column)
    if not text or text.isspace():
        raise RowError(f"{column} is empty")
    return text


def _read_plain_text(settings: DataSettings, path: Path, content: Content) -> int:
    texts = []
    with open_table(path, format="text") as table:
        for row in table:
            try:
                texts.append(row.text("text"))
            except RowError as error:
                content.unusable.append(Unusable(path, row.line, str(error)))
    text, separator = "\n".join(texts), settings.document_separator
    documents = text.split(separator) if separator else [text]
    content.examples.extend(trimmed for one in documents if (trimmed := trim(one)))
    return sum(not line.isspace() for line in texts if line)


def trim(text: str) -> str:
    """Return a document without the empty lines around it and the space at its end."""
    return "" if text.isspace() else text.rstrip().lstrip("\n")
