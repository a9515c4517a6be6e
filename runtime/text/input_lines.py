"""Text files: UTF-8 content, its lines, and JSON objects, one in each line."""

from __future__ import annotations

import json
from typing import Any

from ..errors import PromptError, reason

MARK = "\ufeff"  # byte order mark, which editors on Windows put before a text


def without_mark(text: str) -> str:
    """Return ``text`` without a byte order mark at its beginning."""
    return text.removeprefix(MARK)


def decode_utf8(content: bytes, name: object) -> str:
    """Return a file's content as text, without a byte order mark.

    ``name``: the file's name in errors. Raises ``PromptError`` if the content is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{name} is not valid UTF-8 at byte {error.start}: save the file as UTF-8."
        ) from error


def split_lines(text: str) -> list[str]:
    """Return the lines of ``text``, without their line breaks (LF or CR LF).

    Byte order marks before lines, which joined files have, are removed.
    """
    lines = text.removesuffix("\n").split("\n")
    return [without_mark(line.removesuffix("\r")) for line in lines]


def json_object(line: str, where: str, expected: str) -> dict[str, Any]:
    """Return the JSON object in ``line``.

    Raises ``PromptError`` if the line is not a JSON object. Two parts of its message: ``where``,
    the position of the line, and ``expected``, the next step.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{where} is not valid JSON ({reason(error)}): {expected}.") from error
    if not isinstance(found, dict):
        raise PromptError(f"{where} is not a JSON object: {expected}.")
    return found
