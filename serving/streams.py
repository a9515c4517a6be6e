"""Streams of server-sent events, and what happens when their client leaves or stalls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from starlette.types import Receive, Scope, Send

from .strict_json import encode_json
from .work import Job

DONE = b"data: [DONE]\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies of nginx must not hold events back
]


def event(content: Any) -> bytes:
    """Return one event, whose data is JSON."""
    return b"data: " + encode_json(content) + b"\n\n"


def comment(text: str) -> bytes:
    """Return a comment, which keeps the connection open and which clients ignore."""
    return f": {text}\n\n".encode()


class ClientLeftError(Exception):
    """The client has left before the end of its answer."""


@asynccontextmanager
async def ends_with_client(receive: Receive, job: Job) -> AsyncIterator[None]:
    """Cancel ``job`` and the block when the client leaves while the block runs.

    Raises ``ClientLeftError`` then.
    """

    async def watch(limit: asyncio.Timeout) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        job.cancel()
        limit.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as limit:
            watching = asyncio.create_task(watch(limit))
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
    except TimeoutError:
        if limit.expired():
            raise ClientLeftError from None
        raise


class _StalledError(Exception):
    """The client has taken no bytes for too long."""


class EventStream:
    """A response that sends ``chunks`` as they come.

    If the client takes no bytes for ``stall_s`` seconds, the job is cancelled and the response is
    left incomplete, so that the server drops the connection.
    """

    def __init__(self, chunks: AsyncGenerator[bytes], job: Job, stall_s: float) -> None:
        self._chunks = chunks
        self._job = job
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with ends_with_client(receive, self._job), aclosing(self._chunks):
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                async for chunk in self._chunks:
                    await self._send(send, chunk)
                await self._send(send, b"", is_last=True)
        except (ClientLeftError, _StalledError, OSError):  # OSError: it left while bytes were sent
            pass  # the connection is gone, and so is whom to tell
        finally:
            self._job.end()

    async def _send(self, send: Send, chunk: bytes, *, is_last: bool = False) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await send({"type": "http.response.body", "body": chunk, "more_body": not is_last})
        except TimeoutError:
            raise _StalledError from None
