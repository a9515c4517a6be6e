"""Middleware: who may call the server, errors as JSON, and one line of log for each request."""

from __future__ import annotations

import hmac
import logging
import secrets
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .page import FILES
from .state import Server

LOG = logging.getLogger("edgeseq.serving")
OPEN_PATHS = (*FILES, "/health")  # they need no key
REQUEST_ID = b"x-request-id"


class Access:
    """Middleware that checks the host and the key, and answers unexpected errors."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._settings = server.settings
        self._hosts = {*map(host_name, server.settings.allow_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        request_id = secrets.token_hex(8)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (REQUEST_ID, request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        self._server.in_flight += 1
        try:
            self._check(scope)
            await self._app(scope, receive, send_with_id)
        except ApiError as error:
            await error.response()(scope, receive, send_with_id)
        except Exception as error:
            kind = type(error).__name__
            if self._settings.log_prompts:
                LOG.exception("%s: unexpected %s", request_id, kind)
            else:
                LOG.error("%s: unexpected %s (--log-prompts shows more)", request_id, kind)
            if not status:
                message = f"The server has an error of its own; its log names it by {request_id}."
                await ApiError(500, message).response()(scope, receive, send_with_id)
        finally:
            self._server.in_flight -= 1
            # The log has no query and no unknown path: both may hold anything.
            route = getattr(scope.get("route"), "path", "unknown")
            self._server.metrics.requests[route, status] += 1
            elapsed = time.monotonic() - began_s
            method = scope["method"] if scope["method"].isalpha() else "?"
            LOG.info("%s %s %s %d %.3f s", request_id, method[:10], route, status, elapsed)

    def _check(self, scope: Scope) -> None:
        """Raise ``ApiError`` for a request that may not be answered."""
        headers = Headers(scope=scope)
        host = host_name(headers.get("host", ""))
        if "*" not in self._hosts and host not in self._hosts:
            raise ApiError(
                403,
                f"The host {host!r:.60} is not allowed: use {' or '.join(sorted(self._hosts))}, or "
                "start the server with --allow-host.",
                code="host_not_allowed",
            )
        if self._server.is_stopping:
            raise ApiError(
                503,
                "The server is shutting down: try again later.",
                code="stopping",
                headers={"Retry-After": "5", "Connection": "close"},
            )
        key = self._settings.api_key
        if key is None or scope["path"] in OPEN_PATHS:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), key.encode())
        if kind.lower() != "bearer" or not is_right:
            raise ApiError(
                401,
                "The API key is missing or wrong: send the header Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def host_name(header: str) -> str:
    """Return the name in a ``Host`` header, without its port, in lower case.

    An IPv6 address is in brackets.
    """
    if header.count(":") > 1 and not header.startswith("["):
        return f"[{header.lower()}]"
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return header.partition(":")[0].lower()
