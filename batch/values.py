"""Values of a row in formats that do not have their type."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from datetime import date, datetime, time
from typing import Any

OF_JSON = (str, bool, int, float, list, dict, type(None))


def plain(value: Any) -> Any:
    """Return a value that JSON does not have as one that it has.

    Dates and times are in ISO 8601, bytes in base64, and others, such as decimals, as Python writes
    them.
    """
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return str(value)


def as_text(value: Any) -> str:
    """Return a value as text: a string as it is, None and NaN as "", others as JSON.

    Lone surrogates, which no file of text can hold, become question marks.
    """
    if not isinstance(value, OF_JSON):
        value = plain(value)
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=plain)
    text = str(value)
    return text if text.isascii() else text.encode(errors="replace").decode()


def is_missing(value: Any) -> bool:
    """Return whether a value is None or NaN, which stands for it in data frames."""
    return value is None or (isinstance(value, float) and math.isnan(value))
