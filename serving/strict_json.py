"""JSON of other programs: read strictly, because later code trusts it; and JSON for them."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from ..runtime.errors import reason

DEEPEST = 100  # limit of nested lists and objects


class JsonError(ValueError):
    """Raised for bad JSON; the message is the end of a sentence that begins with its name."""


def read_json(data: bytes) -> Any:
    """Return the JSON value in UTF-8 ``data``; raise ``JsonError`` for anything else.

    Infinities, NaN, keys that occur twice, lone surrogates and deep nesting are refused.
    """
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_duplicates,
        )
        if b"\\ud" in data.lower():
            json.dumps(value, ensure_ascii=False).encode()  # raises for a lone surrogate
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError:
        raise JsonError("has a lone surrogate, which is not a character: remove it") from None
    except ValueError as error:
        raise JsonError(f"is not valid JSON ({reason(error)}): correct it") from None
    _check_depth(value)
    return value


def encode_json(content: Any) -> bytes:
    """Return compact JSON in UTF-8; raise ``ValueError`` for infinities and NaN."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _too_deep() -> JsonError:
    return JsonError(f"has more than {DEEPEST} levels: send less nesting")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return found


def _check_depth(data: Any) -> None:
    """Raise ``JsonError`` for more levels than ``DEEPEST``: later checks are recursive."""
    level = [data] if isinstance(data, dict | list) else []
    for _ in range(DEEPEST):
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise _too_deep()
