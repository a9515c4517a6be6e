"""Compare running servers of one model: many requests at once, a short prompt beside a long one.

    python -m benchmarks.servers edgeseq=http://127.0.0.1:8000 llama.cpp=http://127.0.0.1:8001

The servers answer ``/v1/completions`` with token ids as prompts. They are measured in turns; the
order changes from round to round, and a server that is not measured should use no processor time.

- Throughput: N clients send one request each at the same time, then one after the other. A request
  has a random prompt of 16 tokens and generates 64 tokens, greedily and without an end of sequence.
- Time to first token: a streamed request with a random prompt of 16 tokens, alone and 50 ms after a
  request with a prompt of 900 tokens was sent.

It needs the package httpx.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

STREAMS = (1, 4, 16)
NEW_TOKENS = 64
SHORT, LONG = 16, 900  # tokens of a prompt
BEFORE_S = 0.05  # from the long request to the short one
NO_END = {"eos_token_id": None}  # for edgeseq
NO_END_LLAMA = {"ignore_eos": True, "cache_prompt": False, "temperature": 0, "top_k": 1}


class Server:
    """A running server and what was measured of it."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._client = httpx.Client(
            base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)
        )
        models = self._client.get("/v1/models").raise_for_status().json()["data"]
        self._is_edgeseq = models[0]["owned_by"] == "edgeseq"
        self.model = models[0]["id"]
        self.figures: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        """Keep a figure of a round."""
        self.figures.setdefault(name, []).append(value)

    def _body(self, prompt: list[int], new_tokens: int) -> dict[str, Any]:
        without_end = NO_END if self._is_edgeseq else NO_END_LLAMA
        fields = {"model": self.model, "prompt": prompt, "max_tokens": new_tokens}
        return {**fields, "temperature": 0, **without_end}

    def complete(self, prompt: list[int]) -> None:
        """Generate after a prompt; all tokens must come."""
        answer = self._client.post("/v1/completions", json=self._body(prompt, NEW_TOKENS))
        found = answer.raise_for_status().json()["usage"]["completion_tokens"]
        if found != NEW_TOKENS:
            sys.exit(f"{self.name} generated {found} tokens in place of {NEW_TOKENS}.")

    def throughput(self, prompts: list[list[int]], clients: int) -> float:
        """Tokens per second of all requests, sent by that many clients."""
        with ThreadPoolExecutor(clients) as pool:
            began = time.perf_counter()
            list(pool.map(self.complete, prompts))
            return len(prompts) * NEW_TOKENS / (time.perf_counter() - began)

    def first_token_ms(self, prompt: list[int]) -> float:
        """Milliseconds until the first part of a stream."""
        began = time.perf_counter()
        body = {**self._body(prompt, 2), "stream": True}
        with self._client.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            next(lines)
            passed = time.perf_counter() - began
            for _ in lines:
                pass
        return 1e3 * passed

    def first_token_beside_ms(self, prompt: list[int], long: list[int]) -> float:
        """The same, while another request's long prompt is read."""
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(self.first_token_ms, long)
            time.sleep(BEFORE_S)
            found = self.first_token_ms(prompt)
            other.result()
        return found


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Compare servers of one model.")
    parser.add_argument("servers", nargs="+", metavar="NAME=URL")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vocabulary", type=int, default=50257)
    arguments = parser.parse_args()
    servers = [Server(*item.split("=", 1)) for item in arguments.servers]
    rng = random.Random(0)

    def prompt(length: int) -> list[int]:
        return [rng.randrange(arguments.vocabulary) for _ in range(length)]

    for server in servers:
        server.throughput([prompt(SHORT) for _ in range(4)], 4)  # warm-up
    for number in range(arguments.rounds):
        print(f"round {number + 1}", file=sys.stderr, flush=True)
        prompts = [prompt(SHORT) for _ in range(max(STREAMS))]
        short, beside, long = prompt(SHORT), prompt(SHORT), prompt(LONG)
        for server in servers if number % 2 == 0 else servers[::-1]:
            for count in STREAMS:
                server.note(f"{count} at once", server.throughput(prompts[:count], count))
            server.note("one by one", server.throughput(prompts, 1))
            server.note("first token, ms", server.first_token_ms(short))
            server.note("beside 900 tokens, ms", server.first_token_beside_ms(beside, long))
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "rounds": arguments.rounds,
        "new_tokens": NEW_TOKENS,
    }
    for server in servers:
        found[server.name] = {
            name: {
                "median": round(statistics.median(values), 1),
                "min": round(min(values), 1),
                "max": round(max(values), 1),
            }
            for name, values in server.figures.items()
        }
        for name, figure in found[server.name].items():
            print(f"{server.name:16} {name:24} {figure}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
