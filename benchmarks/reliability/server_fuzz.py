"""Send a server what no client should send, and check that it goes on to answer.

    python -m benchmarks.reliability.server_fuzz [--requests 10000] [--seed 0] [--only N]

It starts ``edgeseq serve --demo`` and sends, from several connections at once: random bytes, broken
HTTP, wrong content types and lengths, compressed bodies, JSON whose fields have values of any type
and size, deep nesting and surrogates, and connections that are slow, half-closed or left. The
server's own lists name the fields. After every fiftieth request a greedy text must be
the same as at the beginning.

It prints a table of kinds and statuses. The exit status is 1 if a status is 500 or more, but for
503 (busy), if the server's process ended or its log has a traceback, if a request got no answer
within a minute, if a text differs, or if memory grew by more than ``--limit`` MB between the second
tenth and the last. It needs Linux, the extra ``server`` and psutil.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import re
import socket
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import httpx
import psutil

from edgeseq.serving.chat import FIELDS as CHAT_FIELDS
from edgeseq.serving.completions import FIELDS as COMPLETION_FIELDS
from edgeseq.serving.options import OWN

TENTHS = 10
CLIENTS = 8
EVERY = 50  # requests between two checks
STALL_S = 2.0  # the server's --stall-time
WAIT_S = 60.0  # for an answer
# Prompts of a megabyte take 100 MB while they are tokenized, which the allocator keeps in part.
LIMIT_MB = 40.0
URL = re.compile(r"at (http://\S+) ")
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
PROBE = {"model": "demo-gpt2", "prompt": "Once upon a time,", "max_tokens": 8, "temperature": 0}
TASKS = ("summarization", "classification", "translation", "question-answering", "none", "..")
FIELDS = {
    "/v1/completions": (*COMPLETION_FIELDS, *OWN),
    "/v1/chat/completions": (*CHAT_FIELDS, *OWN),
    "/tokenize": ("model", "prompt", "add_special_tokens"),
    "/detokenize": ("model", "tokens"),
    **{f"/v1/tasks/{task}": ("model", "text", "labels", *OWN) for task in TASKS},
}
GETS = (
    *("/", "/health", "/metrics", "/v1/models", "/v1/models/demo-gpt2", "/v1/models/" + "x" * 5000),
    *("/v1/tasks", "/v1/models/%00%ff/..", "/../../etc/passwd", "/page.js", "/style.css/..", "//"),
)
GOOD: dict[str, tuple[Any, ...]] = {
    "model": ("demo-gpt2", "demo-t5"),
    "prompt": ("Once upon",),
    "messages": ([{"role": "user", "content": "Hello"}],),
    "text": ("Once upon a time",),
    "labels": (["good", "bad"],),
    "tokens": ([1, 2, 3],),
    "add_special_tokens": (True, False),
    "max_tokens": (1, 4, 16),
    "temperature": (0, 0.7, 2),
    "n": (1, 2),
    "stream": (True, False),
    "stop": ("a", ["b", "c"]),
    "num_beams": (1, 2, 4),
    "seed": (0, 7),
}
STRINGS = (
    *("", "a", "\0", "\ud800", "\udfff\ud800", "\N{GRINNING FACE}" * 100, "\u202e", "x" * 10_000),
    *("(" * 1000, "(a+)+$", "[a-z]{1,100000}", "%s%n", "../../etc/passwd", "null", "-1", "1e999"),
    "a\r\nSet-Cookie: b",
)
NUMBERS = (
    *(
        0,
        -1,
        1,
        2,
        10**6,
        2**31,
        2**53 + 1,
        2**63,
        2**64,
        10**40,
        -(2**63),
        0.5,
        -0.0,
        1e308,
        5e-324,
    ),
)
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "01", "1.", "'a'", "tru", "\\u0000")
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "P\u00d6ST", "")
MOST_STATUS = 499  # the highest that a request may get
BUSY = "503"  # the checks of other requests took too long: try again


class Fuzz:
    """Requests of one seed to one server, and what it answered."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self._host, self._port = address
        self._seed = seed
        self.statuses: dict[str, Counter[str]] = defaultdict(Counter)
        self.faults: list[str] = []
        self.different = 0
        self._kinds: list[tuple[int, Callable[[Random], Awaitable[str]]]] = [
            (4, self.random_bytes),
            (6, self.broken_http),
            (6, self.right_fields),
            (24, self.wrong_fields),
            (10, self.odd_fields),
            (10, self.one_wrong_field),
            (6, self.wrong_json),
            (4, self.wrong_type),
            (4, self.wrong_length),
            (3, self.compressed),
            (3, self.deep),
            (3, self.huge),
            (4, self.half_closed),
            (3, self.left),
            (1, self.slow),
            (3, self.chunked),
            (4, self.other_paths),
            (3, self.pipelined),
        ]

    async def send(self, number: int) -> None:
        """Send request ``number``, which follows from the seed alone."""
        rng = Random(f"{self._seed} {number}")
        weights, kinds = zip(*self._kinds, strict=True)
        [kind] = rng.choices(kinds, weights)
        try:
            outcome = await kind(rng)
        except TimeoutError:
            outcome = "no answer"
            self.faults.append(f"request {number} ({kind.__name__}) got no answer")
        except OSError:  # the server closed the connection while we wrote
            outcome = "closed"
        self.statuses[kind.__name__][outcome] += 1
        if outcome.isdigit() and int(outcome) > MOST_STATUS and outcome != BUSY:
            self.faults.append(f"request {number} ({kind.__name__}) got status {outcome}")

    async def exchange(self, content: bytes, *, end: bool = False) -> str:
        """Send bytes on a connection of its own; return the status of the answer."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(content)
            await writer.drain()
            if end:
                writer.write_eof()
            answer = await asyncio.wait_for(self._answer(reader), WAIT_S)
        finally:
            writer.close()
        found = STATUS.match(answer)
        return found[1].decode() if found else "closed"

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """Return an answer up to the end of the connection, which a client asks for."""
        return await reader.read(-1)

    def head(self, path: str, headers: dict[str, str], method: str = "POST") -> bytes:
        """Return the head of a request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogatepass")

    def request(self, path: str, body: bytes, **changes: str) -> bytes:
        """Return a request with a JSON body; ``changes`` replace headers."""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        named = {name.replace("_", "-"): value for name, value in changes.items()}
        return self.head(path, {**headers, **named}) + body

    def path(self, rng: Random) -> str:
        """Return the path of an endpoint that takes a body."""
        return rng.choice([*FIELDS, "/v1/completions", "/v1/chat/completions"])

    def good_body(self, path: str, rng: Random) -> dict[str, Any]:
        """Return fields with values that may be right."""
        fields = FIELDS[path]
        body = {name: rng.choice(values) for name, values in GOOD.items() if name in fields}
        left_out = rng.sample(sorted(body), rng.randrange(len(body)))
        always = ("model", "prompt", "messages", "text", "max_tokens", "tokens")
        return {name: body[name] for name in body if name in always or name not in left_out}

    def value(self, rng: Random, depth: int = 0) -> Any:
        """Return any JSON value."""
        kind = rng.randrange(9 if depth < 3 else 6)
        match kind:
            case 0:
                return rng.choice([None, True, False])
            case 1 | 2:
                return rng.choice(NUMBERS)
            case 3 | 4:
                return rng.choice(STRINGS)
            case 5:
                return rng.choice([[], {}, [[]], [{}], {"": []}, [None], [-1], ["a"], [1] * 2000])
            case 6 | 7:
                return [self.value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return {
            str(rng.choice([*STRINGS[:5], "type", "content", "role"])): self.value(rng, depth + 1)
            for _ in range(rng.randrange(4))
        }

    # The kinds of requests. Each returns a status, or how the connection ended.

    async def random_bytes(self, rng: Random) -> str:
        """Bytes that are no HTTP."""
        return await self.exchange(rng.randbytes(rng.choice([1, 20, 500, 100_000])), end=True)

    async def broken_http(self, rng: Random) -> str:
        """A request with a bit, a line or a part that is wrong."""
        content = bytearray(self.request("/v1/completions", json.dumps(PROBE).encode()))
        match rng.randrange(6):
            case 0:
                for _ in range(rng.choice([1, 5])):
                    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            case 1:
                content = content.replace(b"\r\n", rng.choice([b"\n", b"\r", b"\r\n\r\n", b""]))
            case 2:
                version = rng.choice([b"HTTP/9.9", b"HTTP/1.0", b"HTTP/2", b"", b"HTTP/1.1 x"])
                content = content.replace(b"HTTP/1.1", version)
            case 3:
                more = b"".join(b"X-%d: y\r\n" % i for i in range(rng.choice([1, 200, 5000])))
                content = content.replace(b"Host:", more + b"Host:")
            case 4:
                long = rng.choice([b"a" * 70_000, b"\x00", b"\xff\xfe", b"a\x0bb", b""])
                content = content.replace(b"localhost", long)
            case _:
                content = content.replace(b"POST", rng.choice(METHODS).encode())
        return await self.exchange(bytes(content), end=rng.random() < 0.5)

    async def wrong_fields(self, rng: Random) -> str:
        """Fields of any type and size."""
        path = self.path(rng)
        body = self.good_body(path, rng)
        for name in rng.sample(FIELDS[path], min(len(FIELDS[path]), rng.choice([1, 1, 2, 5]))):
            body[name] = self.value(rng)
        return await self.exchange(self.request(path, json.dumps(body).encode()))

    async def right_fields(self, rng: Random) -> str:
        """Fields that fit together, or nearly so."""
        path = self.path(rng)
        body = json.dumps(self.good_body(path, rng)).encode()
        return await self.exchange(self.request(path, body))

    async def odd_fields(self, rng: Random) -> str:
        """Fields with values that are nearly right: numbers and strings, in lists or not."""
        path = self.path(rng)
        body = self.good_body(path, rng)
        near = (0, 1, 2, 3, -1, 0.5, 1.5, 100, 10**6, True, "a", "", " ", "\N{GRINNING FACE}")
        for name in rng.sample(FIELDS[path], min(len(FIELDS[path]), rng.choice([1, 1, 2]))):
            many = [rng.choice(near) for _ in range(rng.choice([0, 1, 3, 40]))]
            body[name] = rng.choice([rng.choice(near), many, {str(item): 1 for item in many}])
        return await self.exchange(self.request(path, json.dumps(body).encode()))

    async def one_wrong_field(self, rng: Random) -> str:
        """A field that is unknown, misspelled or misplaced."""
        path = self.path(rng)
        name = rng.choice([*STRINGS, "promt", "__class__", "cancel", "logits_processor"])
        body = {**self.good_body(path, rng), name: self.value(rng)}
        return await self.exchange(self.request(path, json.dumps(body).encode()))

    async def wrong_json(self, rng: Random) -> str:
        """Text that is no JSON, or has numbers that JSON does not have."""
        text = json.dumps(self.good_body("/v1/completions", rng))
        match rng.randrange(4):
            case 0:
                content = text.replace(": ", f": {rng.choice(RAW)}", 1).encode()
            case 1:
                content = text[: rng.randrange(len(text))].encode()
            case 2:
                content = text.encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))
            case _:
                changed = bytearray(text.encode())
                changed[rng.randrange(len(changed))] = rng.randrange(256)
                content = bytes(changed)
        return await self.exchange(self.request(self.path(rng), content))

    async def wrong_type(self, rng: Random) -> str:
        """Another Content-Type."""
        kinds = (
            "text/plain",
            "",
            "application/json; charset=utf-7",
            "a" * 9000,
            "multipart/form-data",
        )
        content = json.dumps(PROBE).encode()
        return await self.exchange(
            self.request("/v1/completions", content, Content_Type=rng.choice(kinds))
        )

    async def wrong_length(self, rng: Random) -> str:
        """A Content-Length that is not the body's."""
        content = json.dumps(PROBE).encode()
        sizes = ("0", "1", "-1", "abc", "9" * 30, "1e3", "+5", "0x10", str(len(content) - 1))
        size = rng.choice([*sizes, str(len(content) + 10), "99999999"])
        request = self.request("/v1/completions", content, Content_Length=size)
        return await self.exchange(request, end=rng.random() < 0.5)

    async def compressed(self, rng: Random) -> str:
        """A compressed body, such as one that would be huge."""
        plain = rng.choice([json.dumps(PROBE).encode(), b" " * 10**7, b"[" * 10**6])
        content = rng.choice([gzip.compress(plain), zlib.compress(plain)])
        encoding = rng.choice(["gzip", "deflate", "br", "zstd", "identity"])
        request = self.request("/v1/completions", content, Content_Encoding=encoding)
        return await self.exchange(request)

    async def deep(self, rng: Random) -> str:
        """Deep nesting."""
        depth = rng.choice([90, 101, 900, 1100, 100_000])
        opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
        nested = opening * depth + ("1" if opening != "[" else "") + closing * depth
        name = rng.choice(["prompt", "json_schema", "messages", "stop", "x"])
        content = f'{{"model": "demo-gpt2", "{name}": {nested}}}'.encode()
        return await self.exchange(self.request(self.path(rng), content))

    async def huge(self, rng: Random) -> str:
        """Bodies near and above the limit of a megabyte."""
        size = rng.choice([2**20 - 200, 2**20 + 1, 3 * 2**20])
        filling = rng.choice(["a ", "\N{GRINNING FACE}", "\\u0000"])
        text = (filling * size)[: size // len(filling.encode())]
        content = f'{{"model": "demo-gpt2", "max_tokens": 1, "prompt": "{text}"}}'.encode()
        return await self.exchange(self.request(self.path(rng), content))

    async def half_closed(self, rng: Random) -> str:
        """Half a request, whose client closes its side."""
        body = json.dumps({**PROBE, "stream": rng.random() < 0.5}).encode()
        content = self.request("/v1/completions", body)
        cut = rng.choice([rng.randrange(1, len(content)), len(content)])
        return await self.exchange(content[:cut], end=True)

    async def left(self, rng: Random) -> str:
        """A request whose client resets the connection before the answer, or in it."""
        body = {**PROBE, "max_tokens": 200, "stream": rng.random() < 0.7}
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(self.request("/v1/completions", json.dumps(body).encode()))
        await writer.drain()
        if rng.random() < 0.6:
            await asyncio.wait_for(reader.read(rng.choice([1, 300])), WAIT_S)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        return "left"

    async def slow(self, rng: Random) -> str:
        """A request that stops in the middle: the server ends the connection."""
        content = self.request("/v1/completions", json.dumps(PROBE).encode())
        return await self.exchange(content[: rng.randrange(len(content))])

    async def chunked(self, rng: Random) -> str:
        """A body in chunks, with sizes that are wrong."""
        body = json.dumps(PROBE).encode()
        head = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        if rng.random() < 0.3:
            head["Content-Length"] = str(len(body))
        size = rng.choice([b"%x" % len(body), b"ffffffffffffffffff", b"-1", b"zz", b"0", b"1;x=y"])
        content = self.head("/v1/completions", head) + size + b"\r\n" + body + b"\r\n0\r\n\r\n"
        return await self.exchange(content, end=rng.random() < 0.5)

    async def other_paths(self, rng: Random) -> str:
        """Other paths and methods."""
        method = rng.choice(["GET", "GET", *METHODS[:-2]])
        path = rng.choice([*GETS, *FIELDS]).replace(" ", "%20")
        return await self.exchange(self.head(path, {}, method))

    async def pipelined(self, rng: Random) -> str:
        """Several requests at once on a connection; the last one closes it."""
        first = self.request("/tokenize", b'{"model": "demo-gpt2", "prompt": "a"}')
        first = first.replace(b"Connection: close\r\n", b"")
        last = self.request("/v1/completions", json.dumps(PROBE).encode())
        return await self.exchange(first * rng.choice([1, 5, 50]) + last)


async def probe(client: httpx.AsyncClient) -> str:
    """Return a greedy text."""
    answer = await client.post("/v1/completions", json=PROBE)
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["text"]
    return text


async def fuzz(url: str, server: psutil.Process, numbers: list[int], seed: int) -> dict[str, Any]:
    """Send requests; return what was seen."""
    host, port = url.removeprefix("http://").split(":")
    fuzzing = Fuzz((host, int(port)), seed)
    states = []
    # Every probe has a connection of its own, so that it also shows that the server accepts.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S, limits=limits) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.1)
        first = await probe(client)
        for tenth in range(TENTHS):
            part = numbers[tenth::TENTHS]
            for begin in range(0, len(part), EVERY):
                left = iter(part[begin : begin + EVERY])
                async with asyncio.TaskGroup() as group:
                    for _ in range(CLIENTS):
                        group.create_task(_send_all(fuzzing, left))
                fuzzing.different += await probe(client) != first
            states.append(await _idle(client, server))
            print(f"tenth {tenth + 1}: {states[-1]}", file=sys.stderr, flush=True)
    resident, files, threads = zip(*states, strict=True)
    return {
        "requests": len(numbers),
        "statuses": {kind: dict(sorted(found.items())) for kind, found in fuzzing.statuses.items()},
        "faults": fuzzing.faults,
        "texts_that_differ": fuzzing.different,
        "resident_mb": resident,
        "files": files,
        "threads": threads,
    }


async def _send_all(fuzzing: Fuzz, numbers: Iterator[int]) -> None:
    for number in numbers:
        await fuzzing.send(number)


async def _idle(client: httpx.AsyncClient, server: psutil.Process) -> tuple[float, int, int]:
    """Return memory, open files and threads once no request runs and no connection is open."""
    while True:
        text = (await client.get("/metrics")).text
        found = re.findall(r"^edgeseq_requests_(?:running|waiting)\S* (\d+)", text, re.MULTILINE)
        connections = [one for one in server.net_connections() if one.status == "ESTABLISHED"]
        if not any(map(int, found)) and len(connections) <= 1:
            break
        await asyncio.sleep(0.1)
    return round(server.memory_info().rss * 1e-6, 1), server.num_fds(), server.num_threads()


@contextmanager
def running_server(log: Counter[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server with both demo models; yield its process and its URL."""
    import threading

    command = [sys.executable, "-m", "edgeseq.cli", "serve", "--demo", "--port", "0"]
    command += ["--stall-time", str(STALL_S), "--max-tokens", "256"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(found[1] for line in lines if (found := URL.search(line)))

        def read() -> None:
            for line in lines:
                log["traceback" if line.startswith("Traceback") else "line"] += 1

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield process, url
        finally:
            process.terminate()
            reader.join()


def table(statuses: dict[str, dict[str, int]]) -> str:
    """Return kinds and outcomes in Markdown."""
    columns = sorted({outcome for found in statuses.values() for outcome in found})
    lines = [f"| requests | {' | '.join(columns)} |", f"|{' --- |' * (1 + len(columns))}"]
    for kind, found in sorted(statuses.items()):
        cells = [kind.replace("_", " "), *(str(found.get(name, 0)) for name in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Start a server, send and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Send a server what no client should send.")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the only request to send")
    parser.add_argument("--limit", type=float, default=LIMIT_MB, help="MB that memory may grow by")
    arguments = parser.parse_args()
    numbers = list(range(arguments.requests)) if arguments.only is None else [arguments.only]
    log: Counter[str] = Counter()
    with running_server(log) as (process, url):
        figures = asyncio.run(fuzz(url, psutil.Process(process.pid), numbers, arguments.seed))
        has_ended = process.poll() is not None
    figures["exit_status"] = process.returncode
    figures["tracebacks_in_the_log"] = log["traceback"]
    resident = figures["resident_mb"]
    figures["grown_mb"] = round(resident[-1] - resident[1], 1)
    print(table(figures["statuses"]))
    for fault in figures["faults"]:
        print(fault)
    print(json.dumps(figures))
    is_broken = figures["faults"] or figures["texts_that_differ"] or log["traceback"] or has_ended
    sys.exit(bool(is_broken) or figures["grown_mb"] > arguments.limit)


if __name__ == "__main__":
    main()
