"""Load a server for a long time with clients that leave, stall and send garbage.

    python -m benchmarks.server_soak [--requests 20000] [--clients 24]

It starts ``edgeseq serve --demo`` in a process. Clients send requests of random kinds: completions
and tasks of both models, with and without streams, that are read to their end, left early, read
slowly or never; bodies and connections that are garbage or stall. After each tenth of the run, once
no request runs, it records the server's resident memory and threads. At the end all slots must be
free. No status may be 500, and each repeated greedy text must be the same as before.

It needs the extra ``server``, psutil and httpx.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import onnxruntime
import psutil

PARTS = 10
STALL_S = 1.0  # the server's --stall-time
URL = re.compile(r"at (http://\S+) ")
HEADERS = {"Host": "localhost", "Content-Type": "application/json"}
WORDS = (
    *("once", "upon", "a", "time", "there", "was", "an", "old", "king", "who", "had", "three"),
    *("sons", "and", "a", "golden", "bird"),
)
GARBAGE = (
    b"",
    b"{",
    b"[]",
    b'"text"',
    b"\xff\xfe\x00",
    b'{"prompt": null}',
    b'{"model": "demo-gpt2", "prompt": [[[1]]]}',
    b'{"model": "demo-gpt2", "prompt": "a", "max_tokens": -1}',
    b'{"model": "demo-gpt2", "prompt": "a", "temperature": 1e999}',
    b'{"model": "demo-gpt2", "prompt": [99999999]}',
    b'{"model": "demo-gpt2", "prompt": "a", "regex": "("}',
    b'{"model": "demo-t5", "prompt": "a", "num_beams": 100000}',
    b'{"model": "nobody", "prompt": "a"}',
    b'{"model": "demo-gpt2", "prompt": "a", "unknown": 1}',
    b"[" * 5000,
)


class Soak:
    """The clients of one server, and what they saw."""

    def __init__(self, url: str, seed: int) -> None:
        self._rng = random.Random(seed)
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=120,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=STALL_S / 2),
        )
        host, port = url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self._texts: dict[str, str] = {}
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.different = 0
        self._actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, self.complete),
            (4, self.stream),
            (2, self.task),
            (2, self.leave),
            (1, self.leave_without_stream),
            (2, self.send_garbage),
            (1, self.break_the_connection),
            (1, self.read_slowly),
            (1, self.ask_figures),
        ]

    async def run(self, requests: int, clients: int) -> None:
        """Send ``requests`` requests with ``clients`` clients."""
        left = requests
        weights, actions = zip(*self._actions, strict=True)

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                [action] = self._rng.choices(actions, weights)
                self.kinds[action.__name__] += 1
                await action()

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(work())

    async def wait_until_ready(self) -> None:
        """Wait until the models are loaded."""
        while (await self._client.get("/health")).status_code != 200:
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def metrics(self) -> dict[str, float]:
        """The server's figures without labels, summed over the models."""
        found: dict[str, float] = defaultdict(float)
        for line in (await self._client.get("/metrics")).text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                found[name.partition("{")[0]] += float(value)
        return found

    def body(self) -> dict[str, Any]:
        """A completion of a random length with random options."""
        rng = self._rng
        options: list[dict[str, Any]] = [
            {"temperature": 0},
            {"temperature": 0},
            {"temperature": 0.8, "seed": rng.randrange(100), "n": 2},
            {"seed": rng.randrange(100), "presence_penalty": 1.0},
            {"num_beams": 4},
            {"temperature": 0, "regex": "[a-z ]{3,12}"},
            {"temperature": 0, "stop": ["e"], "logprobs": 2},
        ]
        name = rng.choice(["demo-gpt2", "demo-t5"])
        words = rng.choices(WORDS, k=1 if name == "demo-t5" else rng.choice([1, 4, 16, 120]))
        return {
            "model": name,
            "prompt": "pronounce: " * (name == "demo-t5") + " ".join(words),
            "max_tokens": rng.randrange(1, 32),
            **rng.choice(options),
        }

    async def post(self, path: str, **content: Any) -> httpx.Response:
        """Post, and count the status."""
        found = await self._client.post(path, headers=HEADERS, **content)
        self.statuses[found.status_code] += 1
        return found

    async def complete(self) -> None:
        """Read a whole text; greedy texts must be the same each time."""
        body = self.body()
        found = await self.post("/v1/completions", json=body)
        if found.status_code == 200 and body.get("temperature") == 0:
            text = found.json()["choices"][0]["text"]
            self.different += self._texts.setdefault(json.dumps(body), text) != text

    async def _stream(self, body: dict[str, Any], lines: float, pause_s: float) -> None:
        body = {**body, "stream": True}
        body.pop("num_beams", None)
        # The server may close a connection whose answer it has sent, though we still read it.
        headers = {**HEADERS, "Connection": "close"} if pause_s else HEADERS
        async with self._client.stream(
            "POST", "/v1/completions", json=body, headers=headers
        ) as found:
            self.statuses[found.status_code] += 1
            async for line in found.aiter_lines():
                lines -= bool(line)
                if lines <= 0:
                    return
                if pause_s:
                    await asyncio.sleep(pause_s)

    async def stream(self) -> None:
        """Read a stream to its end."""
        await self._stream(self.body(), float("inf"), 0)

    async def leave(self) -> None:
        """Leave in the middle of a long stream."""
        body = {**self.body(), "max_tokens": 300, "n": 1}
        await self._stream(body, self._rng.randrange(1, 20), 0)

    async def read_slowly(self) -> None:
        """Read a stream with pauses."""
        await self._stream(self.body(), float("inf"), 0.02)

    async def leave_without_stream(self) -> None:
        """Leave before a long answer is complete."""
        body = {**self.body(), "max_tokens": 300}
        limit_s = self._rng.uniform(0.01, 0.2)
        with contextlib.suppress(httpx.TimeoutException):
            await self._client.post("/v1/completions", json=body, headers=HEADERS, timeout=limit_s)

    async def task(self) -> None:
        """Classify a text."""
        text = " ".join(self._rng.choices(WORDS, k=10))
        await self.post("/v1/tasks/classification", json={"model": "demo-gpt2", "text": text})

    async def send_garbage(self) -> None:
        """Send a body that is refused."""
        path = self._rng.choice(["/v1/completions", "/v1/chat/completions", "/tokenize", "/none"])
        await self.post(path, content=self._rng.choice(GARBAGE))

    async def break_the_connection(self) -> None:
        """Send half a request: leave, wait to be disconnected, or never read the answer."""
        rng = self._rng
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            body = json.dumps({**self.body(), "stream": True}).encode()
            headers = {**HEADERS, "Content-Length": str(len(body))}
            head = ["POST /v1/completions HTTP/1.1", *map(": ".join, headers.items()), "", ""]
            request = "\r\n".join(head).encode() + body
            writer.write(rng.choice([os.urandom(200), request[:60], request[:-5], request]))
            await writer.drain()
            if rng.random() < 0.3:
                await asyncio.wait_for(reader.read(), 60)  # the server closes it
        except (ConnectionError, TimeoutError):
            self.kinds["closed by the server"] += 1
        finally:
            writer.close()

    async def ask_figures(self) -> None:
        """Read the server's other endpoints."""
        path = self._rng.choice(["/metrics", "/v1/models", "/health", "/", "/v1/tasks"])
        found = await self._client.get(path)
        self.statuses[found.status_code] += 1


async def soak(url: str, server: psutil.Process, requests: int, clients: int) -> dict[str, Any]:
    """Load the server; return what was seen."""
    clientele = Soak(url, seed=0)
    await clientele.wait_until_ready()
    await clientele.run(200, clients)  # warm-up: caches and threads
    states = [await idle_state(clientele, server)]
    began = time.monotonic()
    for part in range(PARTS):
        await clientele.run(requests // PARTS, clients)
        states.append(await idle_state(clientele, server))
        print(f"part {part + 1} of {PARTS}: {states[-1]}", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    metrics = await clientele.metrics()
    await clientele.close()
    return {
        "requests": requests // PARTS * PARTS,
        "clients": clients,
        "seconds": round(seconds),
        "kinds": dict(sorted(clientele.kinds.items())),
        "statuses": {str(status): n for status, n in sorted(clientele.statuses.items())},
        "texts_that_differ": clientele.different,
        "generated_tokens": int(metrics["edgeseq_generated_tokens_total"]),
        "cancelled": int(metrics["edgeseq_cancelled_total"]),
        "resident_mb": [state["resident_mb"] for state in states],
        "threads": [state["threads"] for state in states],
        "connections_at_the_end": len(server.net_connections()) - 1,  # without the one that listens
        "running_at_the_end": int(metrics["edgeseq_requests_running"]),
        "waiting_at_the_end": int(metrics["edgeseq_requests_waiting"]),
    }


async def idle_state(clientele: Soak, server: psutil.Process) -> dict[str, Any]:
    """The server's memory and threads once no request runs."""
    await asyncio.sleep(STALL_S + 0.5)  # connections that stall are closed
    while True:
        metrics = await clientele.metrics()
        if metrics["edgeseq_requests_running"] == metrics["edgeseq_requests_waiting"] == 0:
            break
        await asyncio.sleep(0.1)
    return {
        "resident_mb": round(server.memory_info().rss * 1e-6, 1),
        "threads": server.num_threads(),
    }


def main() -> None:
    """Start a server, load it and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Load a server for a long time.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=24)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "edgeseq.cli", "serve", "--demo", "--port", "0"]
    command += ["--stall-time", str(STALL_S)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(found[1] for line in lines if (found := URL.search(line)))
        log: Counter[str] = Counter()
        reader = asyncio.to_thread(lambda: log.update(kind_of_line(line) for line in lines))

        async def run() -> dict[str, Any]:
            reading = asyncio.create_task(reader)
            try:
                return await soak(
                    url, psutil.Process(process.pid), arguments.requests, arguments.clients
                )
            finally:
                process.terminate()
                await reading

        figures = asyncio.run(run())
        figures["exit_status"] = process.wait()
    figures["tracebacks_in_the_log"] = log["traceback"]
    figures["onnxruntime"] = onnxruntime.__version__
    figures["system"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(json.dumps(figures))
    if figures["statuses"].get("500") or figures["texts_that_differ"] or log["traceback"]:
        sys.exit(1)


def kind_of_line(line: str) -> str:
    """Whether a line of the server's log begins a traceback."""
    return "traceback" if line.startswith("Traceback") else "line"


if __name__ == "__main__":
    main()
