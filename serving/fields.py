"""The body of a request: JSON, and checks of its fields."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ..runtime.errors import nearest
from .errors import ApiError, bad_field
from .settings import Settings
from .strict_json import JsonError, read_json

MOST_ITEMS = 1024  # limit of items of a list or object that is an option


async def read_body(request: Request, settings: Settings) -> bytes:
    """Return the body of a request; raise ``ApiError`` for one that is too large or too slow.

    Each part of it must come within ``stall_s`` seconds, and all of it within ``request_s``.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Browsers send other types to other sites without asking them first.
        raise ApiError(
            415,
            f"The Content-Type is {kind!r:.60}: send the header Content-Type: application/json.",
        )
    limit = settings.max_body_bytes
    size = request.headers.get("content-length", "")
    too_large = ApiError(413, f"The body has more than {limit} bytes: send a smaller one.")
    if size.isascii() and size.isdigit() and (len(size) > 18 or int(size) > limit):
        raise too_large
    body = bytearray()
    chunks = aiter(request.stream())
    began_s = time.monotonic()
    while True:
        left_s = began_s + settings.request_s - time.monotonic()
        try:
            async with asyncio.timeout(min(settings.stall_s, left_s)):
                body += await anext(chunks)
        except StopAsyncIteration:
            return bytes(body)
        except TimeoutError:
            raise ApiError(408, "The body came too slowly: send it again.") from None
        except ClientDisconnect:
            raise ApiError(400, "The client left before the end of the body.") from None
        if len(body) > limit:
            raise too_large


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; raise ``ApiError`` for anything else."""
    try:
        data = read_json(body)
    except JsonError as error:
        raise ApiError(400, f"The body {error}.") from None
    if not isinstance(data, dict):
        raise ApiError(400, 'The body must be a JSON object, such as {"prompt": "Hello"}.')
    return data


def _most_items(value: Any) -> int:
    """Return the number of items of the largest list or object in a JSON value."""
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return max(
        [len(value), *(_most_items(item) for item in inner if isinstance(item, list | dict))]
    )


class Fields:
    """The fields of a request, each taken once; a field that is null counts as left out."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = {name: value for name, value in data.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def put(self, name: str, value: Any) -> None:
        """Add a field that follows from another one; raise ``ApiError`` if it is there already."""
        if name in self._data:
            raise bad_field(name, f"{name} is given twice: leave one of the two fields out.")
        self._data[name] = value

    def take(self, name: str) -> Any:
        """Take a field of any type; None if it is left out."""
        return self._data.pop(name, None)

    def text(self, name: str, default: str = "") -> str:
        """Take a string."""
        value = self._data.pop(name, default)
        if not isinstance(value, str):
            raise bad_field(name, f"{name} is {value!r:.60}; it must be a string.")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Take true or false."""
        value = self._data.pop(name, default)
        if type(value) is not bool:
            raise bad_field(name, f"{name} is {value!r:.60}; it must be true or false.")
        return value

    def integer(self, name: str, at_least: int, at_most: int) -> int | None:
        """Take an integer; None if it is left out."""
        value = self._data.pop(name, None)
        if value is not None and (type(value) is not int or not at_least <= value <= at_most):
            raise bad_field(
                name,
                f"{name} is {value!r:.60}; it must be an integer from {at_least} to {at_most}.",
            )
        return value

    def number(self, name: str, at_least: float, at_most: float) -> float | None:
        """Take a number; None if it is left out."""
        value: Any = self._data.pop(name, None)
        is_number = type(value) is int or type(value) is float
        if value is not None and (not is_number or not at_least <= value <= at_most):
            raise bad_field(
                name,
                f"{name} is {value!r:.60}; it must be a number from {at_least:g} to {at_most:g}.",
            )
        return None if value is None else float(value)

    def options(self, names: Iterable[str]) -> dict[str, Any]:
        """Take the fields in ``names``, whose values the runtime checks."""
        found = {name: self._data.pop(name) for name in names if name in self._data}
        for name, value in found.items():
            size = 0 if name == "json_schema" else _most_items(value)
            if size > MOST_ITEMS:
                raise bad_field(
                    name, f"{name} has {size} items; the limit is {MOST_ITEMS}: send fewer."
                )
        return found

    def finish(self, known: Iterable[str]) -> None:
        """Raise ``ApiError`` if a field is left that nobody took; ``known``: names to suggest."""
        names = [*known]
        for name in self._data:
            if name in names:
                raise bad_field(name, f"{name} has no effect with the other fields: leave it out.")
            close = nearest(name[:60], names)
            hint = f"did you mean {close!r}?" if close else "remove it."
            raise bad_field(name, f"There is no field {name!r:.60} here: {hint}")
