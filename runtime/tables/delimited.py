"""CSV and TSV files: a header, and rows of values that may be in double quotes.

The form is that of RFC 4180. A value in quotes may have line breaks, delimiters and doubled quotes
in it; a quote within any other value is a character like others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import PromptError
from .lines import Line, Lines
from .row import NOTHING, Row, RowError, counted, shortened

LONGEST_ROW = 16 << 20  # characters; a quote that is not closed ends here at the latest


class Delimited:
    """The header and the rows of a CSV or TSV file.

    A ``.csv`` file whose header has semicolons and no commas is delimited by semicolons. Raises
    ``PromptError`` for a header that is missing, cannot be read or names a column twice.
    """

    def __init__(self, path: Path, lines: Lines, delimiter: str) -> None:
        self._lines = lines
        first = next((line for line in lines if line.text or line.fault), None)
        if first is None:
            raise PromptError(f"{path} is empty: its first line must name the columns.")
        if delimiter == "," and delimiter not in first.text and ";" in first.text:
            delimiter = ";"
        self._delimiter = delimiter
        taken = [first]
        try:
            self.columns: Sequence[str] = self._values(taken)
        except RowError as error:
            raise PromptError(
                f"{path}, line {first.number}: {error}; this line must name the columns."
            ) from error
        named = [name for name in self.columns if name]
        for name in named:
            if named.count(name) > 1:
                raise PromptError(
                    f"{path} has several columns {shortened(name)}: give each its own name."
                )

    def rows(self) -> Iterator[Row]:
        """Yield the rows; a row that cannot be read has a fault. Empty lines are skipped."""
        for first in self._lines:
            if not first.text and not first.fault:
                continue
            taken = [first]
            try:
                values = self._values(taken)
            except RowError as error:
                self._lines.put_back(taken[1:])  # only the first line is lost
                yield Row(first.number, NOTHING, str(error))
                continue
            if len(values) == len(self.columns):
                yield Row(first.number, dict(zip(self.columns, values, strict=True)))
            else:
                found = counted(len(values), "value")
                fault = f"the row has {found} for {counted(len(self.columns), 'column')}"
                yield Row(first.number, NOTHING, fault)

    def _values(self, taken: list[Line]) -> list[str]:
        """Return the values of the row that begins with the line in ``taken``.

        Further lines of the row are appended to ``taken``. Raises ``RowError``.
        """
        line = taken[0].text
        if taken[0].fault:
            raise RowError(taken[0].fault)
        if '"' not in line:
            return line.split(self._delimiter)
        values: list[str] = []
        start = 0
        while True:
            if line.startswith('"', start):
                value, line, start = self._quoted(line, start + 1, taken, len(values) + 1)
                if start < len(line) and line[start] != self._delimiter:
                    what = "text after its closing quote" if len(taken) == 1 else "no closing quote"
                    raise RowError(f"value {len(values) + 1} has {what}")
            else:
                end = line.find(self._delimiter, start)
                end = len(line) if end < 0 else end
                value, start = line[start:end], end
            values.append(value)
            if start == len(line):
                return values
            start += 1

    def _quoted(
        self, line: str, start: int, taken: list[Line], number: int
    ) -> tuple[str, str, int]:
        """Return the value in quotes that begins at ``start``, its last line and its end there."""
        parts: list[str] = []
        size = 0
        while True:
            end = line.find('"', start)
            if end < 0:
                parts += [line[start:], "\n"]
                size += len(line) + 1
                following = next(self._lines, None) if size < LONGEST_ROW else None
                if following is None:
                    raise RowError(f"value {number} has no closing quote")
                taken.append(following)
                if following.fault:
                    raise RowError(f"line {following.number} of the row: {following.fault}")
                line, start = following.text, 0
            elif line.startswith('"', end + 1):  # a doubled quote stands for one
                parts.append(line[start : end + 1])
                start = end + 2
            else:
                return "".join([*parts, line[start:end]]), line, end + 1
