"""Errors as OpenAI's API has them: a status, and ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ..runtime.errors import (
    DeviceError,
    EdgeseqError,
    MissingPackageError,
    OptionError,
    PromptError,
)
from .strict_json import encode_json

OPENAI_NAMES = {  # edgeseq's name -> OpenAI's
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "num_return_sequences": "n",
    "stop_strings": "stop",
}
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class ApiError(Exception):
    """An error that becomes a response.

    ``param``: the field of the request that is wrong. ``code``: a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status >= 500:
            kind = "server_error"
        else:
            kind = TYPES.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """Return the response."""
        return json_response(self.body, self.status, self.headers)


def bad_field(name: str, message: str) -> ApiError:
    """Return the error of a request whose field ``name`` is wrong."""
    return ApiError(400, message, param=name)


def api_error(error: EdgeseqError) -> ApiError:
    """Return an error of the runtime as an ``ApiError``."""
    message = str(error)
    if isinstance(error, OptionError):
        name = _option_in(message)
        if name in OPENAI_NAMES:
            return bad_field(OPENAI_NAMES[name], OPENAI_NAMES[name] + message.removeprefix(name))
        return ApiError(400, message, param=name)
    if isinstance(error, PromptError):
        is_long = "reads at most" in message
        return ApiError(
            400, message, param="prompt", code="context_length_exceeded" if is_long else None
        )
    if isinstance(error, MissingPackageError):
        return ApiError(501, message, code="missing_package")
    if isinstance(error, DeviceError):
        return ApiError(503, message, code="out_of_memory", headers={"Retry-After": "1"})
    return ApiError(500, message)


def _option_in(message: str) -> str | None:
    """Return the name at the start of an option's error; None if there is none."""
    first, _, rest = message.partition(" ")
    is_name = first.replace("_", "").isalnum() and first == first.lower()
    return (
        first if is_name and rest.startswith(("is ", "has no effect", "must ", "holds ")) else None
    )


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response whose body is JSON."""
    return Response(encode_json(content), status, headers, media_type="application/json")
