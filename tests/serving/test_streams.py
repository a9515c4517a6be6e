"""Streams whose clients wait, leave or stall, over the ASGI application itself."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from edgeseq.runtime import Model
from edgeseq.serving import Settings, create_app
from tests.serving.conftest import Gate

BODY = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 400}
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class CountingDecoders:
    """A model that counts its decode steps, and waits before step ``pause`` until ``go`` is set."""

    def __init__(self, model: Model, pause: int) -> None:
        self.steps = 0
        self.go = threading.Event()
        self._new_decoder = model.new_decoder
        self._pause = pause
        self.model = model.with_decoders(self._decoder)

    def _decoder(self, prompts: Any, capacity: int) -> Any:
        decoder, outer = self._new_decoder(prompts, capacity), self

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(decoder, name)

            def decode(self, tokens: Any) -> Any:
                outer.steps += 1
                assert outer.steps < outer._pause or outer.go.wait(60)
                return decoder.decode(tokens)

        return Counting()


async def call(app: Any, body: dict[str, Any], receive_later: Receive, send: Send) -> None:
    """Send one request to the application; ``receive_later`` returns what follows its body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else await receive_later()

    await app(scope, receive, send)


def with_application(
    model: Model, use: Callable[[Any], Awaitable[None]], **settings: Any
) -> dict[str, float]:
    """Run ``use(app)`` in an event loop; return the figures of ``/metrics``."""
    app = create_app({"demo": model}, Settings(**settings))
    server = app.state.server

    async def main() -> None:
        lifespan: AbstractAsyncContextManager[Any] = app.router.lifespan_context(app)
        async with lifespan, asyncio.timeout(60):
            while not server.models.is_ready:
                await asyncio.sleep(0)
            await use(app)

    asyncio.run(main())
    lines = server.metrics.text(server.models).splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


async def stay() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def test_comments_are_sent_until_the_first_token(gate: Gate) -> None:
    sent = bytearray()

    async def send(message: dict[str, Any]) -> None:
        sent.extend(message.get("body", b""))
        if sent.count(b": reading the prompt\n\n") == 3:
            gate.open()

    with_application(
        gate.model,
        lambda app: call(app, {**BODY, "stream": True, "max_tokens": 2}, stay, send),
        comment_s=0.01,
    )
    assert sent.startswith(b": reading the prompt\n\n" * 3)
    assert sent.endswith(b"data: [DONE]\n\n")


def test_a_generation_ends_when_its_client_leaves(demo_gpt2: Model) -> None:
    for stream in (False, True):
        counting = CountingDecoders(demo_gpt2, pause=5)

        async def leave(counting: CountingDecoders = counting) -> dict[str, Any]:
            while counting.steps < 5:
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None: ...

        async def use(
            app: Any, counting: CountingDecoders = counting, stream: bool = stream
        ) -> None:
            request = asyncio.create_task(call(app, {**BODY, "stream": stream}, leave, send))
            [served] = app.state.server.models.served
            while not counting.steps >= 5:
                await asyncio.sleep(0.001)
            assert served.queue.running == 1
            for _ in range(10):  # the application hears that the client has left
                await asyncio.sleep(0.002)
            counting.go.set()
            await request
            assert served.queue.running == served.queue.waiting == 0

        figures = with_application(counting.model, use)
        assert counting.steps <= 6
        assert figures['edgeseq_cancelled_total{model="demo"}'] == 1


def test_a_request_whose_client_leaves_does_not_wait(gate: Gate) -> None:
    async def send(message: dict[str, Any]) -> None: ...

    async def use(app: Any) -> None:
        [served] = app.state.server.models.served
        first = asyncio.create_task(call(app, BODY, stay, send))
        while served.queue.running == 0:
            await asyncio.sleep(0.001)
        for stream in (False, True):
            leaves = asyncio.Event()

            async def leave(leaves: asyncio.Event = leaves) -> dict[str, Any]:
                await leaves.wait()
                return {"type": "http.disconnect"}

            second = asyncio.create_task(call(app, {**BODY, "stream": stream}, leave, send))
            while served.queue.waiting == 0:
                await asyncio.sleep(0.001)
            leaves.set()
            await second
            assert (served.queue.running, served.queue.waiting) == (1, 0)
        gate.open()
        await first

    figures = with_application(gate.model, use, max_concurrent=1)
    assert figures['edgeseq_cancelled_total{model="demo"}'] == 2
    assert figures['edgeseq_requests_total{route="/v1/completions",status="499"}'] == 1


def test_a_generation_pauses_for_a_slow_reader_and_ends_for_a_stalled_one(
    demo_gpt2: Model,
) -> None:
    counting = CountingDecoders(demo_gpt2, pause=1000)
    took = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal took
        if b"data:" in message.get("body", b""):
            took += 1
            if took > 3:
                await asyncio.Event().wait()  # the client reads no more

    figures = with_application(
        counting.model,
        lambda app: call(app, {**BODY, "stream": True}, stay, send),
        stall_s=0.2,
    )
    assert took == 4
    assert counting.steps < 300  # at most 256 tokens wait for a slow reader
    assert figures['edgeseq_cancelled_total{model="demo"}'] == 1
    assert figures['edgeseq_requests_running{model="demo"}'] == 0


def test_a_slow_body_is_refused(demo_gpt2: Model) -> None:
    status = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    async def stalled(app: Any) -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/completions",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        }
        await app(scope, receive, send)

    with_application(demo_gpt2, stalled, stall_s=0.05)
    assert status == 408
