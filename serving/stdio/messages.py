"""JSON-RPC 2.0: requests, their parameters, answers and errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...runtime.errors import (
    DeviceError,
    EdgeseqError,
    MissingPackageError,
    OptionError,
    PromptError,
    nearest,
)
from ..strict_json import JsonError, read_json

Id = str | int
Message = dict[str, Any]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
CANCELLED = -32800  # as in the Language Server Protocol
FAILED = -32000  # an error of the runtime that has no code of its own
BUSY = -32001
MISSING_PACKAGE = -32002
OUT_OF_MEMORY = -32003

MEMBERS = ("jsonrpc", "id", "method", "params")


class RpcError(Exception):
    """An error that becomes the answer to a request.

    ``request_id``: from ``read_request``, the id that the request has nevertheless.
    """

    def __init__(self, code: int, message: str, *, request_id: Id | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class DuplicateIdError(RpcError):
    """Raised for the id of a request that has no answer yet; an answer with it would be wrong."""


class Params:
    """The parameters of a request, each taken once; one that is null counts as left out."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}

    def text(self, name: str, default: str | None = None) -> str:
        """Take a string; without a default it must be there."""
        value = self._given.pop(name, default)
        if not isinstance(value, str):
            what = f"{name} is missing" if value is None else f"{name} is {value!r:.60}"
            raise RpcError(INVALID_PARAMS, f"{what}; it must be a string.")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Take true or false."""
        value = self._given.pop(name, default)
        if type(value) is not bool:
            raise RpcError(INVALID_PARAMS, f"{name} is {value!r:.60}; it must be true or false.")
        return value

    def id(self, name: str) -> Id:
        """Take the id of a request."""
        value = self._given.pop(name, None)
        if not is_id(value):
            what = f"{name} is missing" if value is None else f"{name} is {value!r:.60}"
            raise RpcError(INVALID_PARAMS, f"{what}; it must be the id of a request.")
        found: Id = value
        return found

    def texts(self, name: str) -> dict[str, str]:
        """Take an object whose values are strings."""
        value = self._given.pop(name, None)
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            what = f"{name} is missing" if value is None else f"{name} is {value!r:.60}"
            raise RpcError(INVALID_PARAMS, f"{what}; it must be an object of strings.")
        return value

    def options(self, names: Iterable[str]) -> dict[str, Any]:
        """Take all parameters in ``names``, whose values the runtime checks."""
        return {name: self._given.pop(name) for name in names if name in self._given}

    def finish(self, known: Iterable[str] = ()) -> None:
        """Raise ``RpcError`` if a parameter is left; ``known``: names to suggest."""
        for name in self._given:
            close = nearest(name[:60], known)
            hint = f"did you mean {close!r}?" if close else "remove it."
            raise RpcError(INVALID_PARAMS, f"There is no parameter {name!r:.60} here: {hint}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request, or a notification, whose ``id`` is None."""

    id: Id | None
    method: str
    params: Params


def is_id(value: Any) -> bool:
    """Return whether ``value`` can be the id of a request: a string or an integer."""
    return isinstance(value, str) or type(value) is int


def read_request(line: bytes) -> Request:
    """Return the request in a line; raise ``RpcError`` for anything else."""
    try:
        found = read_json(line)
    except JsonError as error:
        raise RpcError(PARSE_ERROR, f"The line {error}.") from None
    if not isinstance(found, dict):
        raise RpcError(
            INVALID_REQUEST,
            'The line must be one JSON object, such as {"jsonrpc": "2.0", "id": 1, "method": '
            '"models"}.',
        )
    given = found.get("id")
    if given is not None and not is_id(given):
        raise RpcError(INVALID_REQUEST, f"id is {given!r:.60}; it must be a string or an integer.")

    def wrong(message: str, code: int = INVALID_REQUEST) -> RpcError:
        return RpcError(code, message, request_id=given)

    if (version := found.get("jsonrpc", "2.0")) != "2.0":
        raise wrong(f'jsonrpc is {version!r:.60}; it must be "2.0".')
    method, params = found.get("method"), found.get("params")
    if not isinstance(method, str):
        what = "method is missing" if method is None else f"method is {method!r:.60}"
        raise wrong(f"{what}; it must be the name of a method.")
    if params is not None and not isinstance(params, dict):
        raise wrong(f"params is {params!r:.60}; it must be an object.", INVALID_PARAMS)
    for name in found:
        if name not in MEMBERS:
            raise wrong(
                f"There is no member {name!r:.60} beside {', '.join(MEMBERS)}: remove it, or put "
                "it into params."
            )
    return Request(id=given, method=method, params=Params(params or {}))


def answer(request_id: Id | None, result: Any) -> Message:
    """Return the answer to a request."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_answer(request_id: Id | None, error: RpcError) -> Message:
    """Return the answer to a request that failed."""
    body = {"code": error.code, "message": str(error)}
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


def notification(method: str, params: Message) -> Message:
    """Return a message that needs no answer."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def rpc_error(error: EdgeseqError) -> RpcError:
    """Return an error of the runtime as an ``RpcError``."""
    if isinstance(error, OptionError | PromptError):
        return RpcError(INVALID_PARAMS, str(error))
    if isinstance(error, MissingPackageError):
        return RpcError(MISSING_PACKAGE, str(error))
    if isinstance(error, DeviceError):
        return RpcError(OUT_OF_MEMORY, str(error))
    return RpcError(FAILED, str(error))


def cancelled_error() -> RpcError:
    """Return the error of a request that was cancelled."""
    return RpcError(CANCELLED, "The request was cancelled.")
