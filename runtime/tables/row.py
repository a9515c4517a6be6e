"""A row of a file, and the values in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import PromptError

LONGEST = 40  # characters of a value in an error
MISSING = "the row has no"  # how the fault begins for a column that a row does not have
NOTHING: Mapping[str, Any] = {}


class RowError(PromptError):
    """Raised for a row or a value that cannot be used; its message is a part of a sentence."""


class Part(NamedTuple):
    """A part of a file: whole lines of JSON Lines, or rows of Parquet."""

    before: int  # lines or rows of the file that precede it
    begin: int  # its first byte in JSON Lines, its first row in Parquet
    end: int  # the first byte or row after it


class Row(NamedTuple):
    """A row: its values by column, or the fault because of which it cannot be read."""

    line: int  # where it begins, from 1; in a Parquet file the number of the row
    values: Mapping[str, Any]
    fault: str = ""  # a part of a sentence; a row with a fault has no values

    def text(self, column: str) -> str:
        """Return a value that is a string; raise ``RowError`` if there is none."""
        if self.fault:
            raise RowError(self.fault)
        value = self.values.get(column, NOTHING)
        if value is NOTHING:
            names = ", ".join(map(shortened, self.values)) or "nothing"
            raise RowError(f"{MISSING} {shortened(column)} (it has {names:.200})")
        if not isinstance(value, str):
            shown = "" if value is None else f" ({shortened(value)})"
            raise RowError(f"{column} is {kind_of(value)}{shown} and not a string")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise RowError(f"{column} has a lone surrogate, which is not a character")
        return value


KINDS = {
    type(None): "null",
    str: "a string",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """Return what kind of value this is, such as "a number"."""
    return KINDS.get(type(value), f"a value of type {type(value).__name__}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 tab" or "2 tabs"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def shortened(value: object) -> str:
    """Return ``value`` as it is shown in an error: in quotes, and at most 40 characters."""
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}...")
    try:
        shown = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        shown = repr(value)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."
