"""The columns of a row: fields of the task, and others that pass through."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..runtime.errors import OptionError, PromptError
from ..runtime.tables.row import shortened
from ..runtime.tasks.templates import Template

LINE, TASK, RUN, INPUT = "line", "task", "run", "input"  # columns that precede the answer
OUTPUT, PROBABILITIES, ERROR = "output", "probabilities", "error"
TRUNCATED = "truncated_tokens"
ALWAYS = (LINE, TASK, RUN, INPUT, PROBABILITIES, TRUNCATED, ERROR)  # no input column can keep these
WITH_FLAGS = ("name the column with --text-column", "add it, or give --field FIELD=TEXT")
PREFIX = "input_"  # is put before the name of such a column


class Columns:
    """Which columns of the input are fields of a task, and how columns are named in the output.

    The first field is the column ``text_column``, by default the column of its name. The other
    fields are the columns of their names. ``constants``: fields that are the same in all rows; a
    column overrides them. ``output_column``: the name of the column for answers. ``reserved``: the
    names of all other columns that the output adds. Raises ``OptionError`` if ``output_column`` is
    one of them.
    """

    def __init__(
        self,
        template: Template,
        *,
        text_column: str | None = None,
        output_column: str = OUTPUT,
        constants: Mapping[str, str] = MappingProxyType({}),
        reserved: Sequence[str] = ALWAYS,
    ) -> None:
        if output_column in reserved or not output_column:
            raise OptionError(
                f"The output column is {output_column!r:.60}; it must be a name other than "
                f"{', '.join(reserved)}."
            )
        first = template.fields[0]
        self.first = first
        self.output = output_column
        self.constants = constants
        self.field_of = {name: name for name in template.fields[1:]}  # by column
        self.field_of[text_column or first] = first
        self._template = template
        self._reserved = {*reserved, output_column}

    def split(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of the task, and the other columns by their names in the output."""
        fields: dict[str, Any] = dict(self.constants)
        others: dict[str, Any] = {}
        for column, value in values.items():
            if column in self.field_of:
                fields[self.field_of[column]] = value
            else:
                others[self.renamed(column, values)] = value
        return fields, others

    def renamed(self, column: str, columns: Collection[str]) -> str:
        """Return the name in the output of one of ``columns`` of the input."""
        if column not in self._reserved:
            return column
        while column in self._reserved or column in columns:
            column = PREFIX + column
        return column

    def renamed_all(self, columns: Iterable[str]) -> list[str]:
        """Return the names in a flat output of ``columns`` of the input, fields included."""
        columns = list(columns)
        return [self.renamed(column, columns) for column in columns]

    def flat(self, fields: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``fields`` and ``others`` as columns of one row, named as in the input."""
        column_of = {field: column for column, field in self.field_of.items()}
        flat = dict(others)
        for field, value in fields.items():
            column = column_of.get(field, field)
            taken = {*flat, *self._reserved, *(() if field in column_of else self.field_of)}
            while column in taken:
                column = PREFIX + column
            flat[column] = value
        return flat

    def check(self, found: Sequence[str], name: str, advice: tuple[str, str] = WITH_FLAGS) -> None:
        """Raise ``PromptError`` if a field is missing in ``found``, the columns of the input.

        ``name``: the input's name in the error. ``advice``: the next step for the first field, and
        for any other.
        """
        given = {*self.constants, *self._template.defaults}
        for column, field in self.field_of.items():
            if found.count(column) > 1:
                raise PromptError(
                    f"{name} has several columns {shortened(column)}: give each its own name."
                )
            if column in found or field in given:
                continue
            names = ", ".join(map(shortened, found)) or "nothing"
            step = advice[field != self.first].replace("FIELD", field)
            raise PromptError(
                f"{name} has no column {shortened(column)} (it has {names:.200}): {step}."
            )
