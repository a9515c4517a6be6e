"""Measure a model in an asyncio program: event loop delays, many streams at once, leaks.

    python benchmarks/embedding.py [BUNDLE]

Without a bundle the demo GPT-2 runs. Three measurements, printed as JSON:

- ``loop``: the delays of an event loop that wakes every millisecond, alone and while it reads a
  stream; and the time of a decode step.
- ``streams``: throughput of 50 streams at once and of the same streams one after the other, and how
  many texts are equal.
- ``requests``: resident memory and threads before and after 1,000 streams, ten at a time. Two in
  five of them are closed early or cancelled at a random point. 100 streams run before the first
  measurement, because they fill caches of Python and of ONNX Runtime.

Not timed: loading.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import sys
import threading
import time
from contextlib import aclosing
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import onnxruntime

from edgeseq.runtime import EdgeseqError, Model, load

OPTIONS: dict[str, Any] = {"do_sample": False, "eos_token_id": None}
TOKENS, STREAMS, REQUESTS, AT_ONCE, WARM_UP = 64, 50, 1000, 10, 100
TICK_S = 0.001
LOOP_S = 5.0
PROMPTS = [f"Once upon a time there was a {word}" for word in ("fox", "king", "girl", "bird")]


async def read(model: Model, prompt: str, tokens: int = TOKENS) -> str:
    """Return the whole text of a stream."""
    options = {**OPTIONS, "max_new_tokens": tokens}
    return "".join([piece async for piece in model.astream(prompt, **options)])


async def delays_ms(work: Any) -> list[float]:
    """Return the delay of each wake-up of the event loop, in ms, until ``work`` is done."""
    found = []
    task = asyncio.ensure_future(work)
    while not task.done():
        asked = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        found.append(1e3 * (time.perf_counter() - asked))
    await task
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest value."""
    cuts = quantiles(values, n=100)
    return {name: round(v, 3) for name, v in (("p50", median(values)), ("p99", cuts[98]))} | {
        "max": round(max(values), 3)
    }


async def measure_loop(model: Model) -> dict[str, Any]:
    """Measure the delays of an idle event loop, and of a loop that reads streams."""

    async def streams() -> None:
        end = time.perf_counter() + LOOP_S
        while time.perf_counter() < end:
            await read(model, PROMPTS[0])

    [result] = model.generate(PROMPTS[0], max_new_tokens=TOKENS, **OPTIONS)
    step = (result.timings.total_s - result.timings.first_token_s) / (TOKENS - 1)
    return {
        "step_ms": round(1e3 * step, 3),
        "delay_alone_ms": spread(await delays_ms(asyncio.sleep(LOOP_S))),
        "delay_streaming_ms": spread(await delays_ms(streams())),
    }


async def measure_streams(model: Model) -> dict[str, Any]:
    """Measure the throughput of streams at once, and one after the other."""
    wanted = [PROMPTS[i % len(PROMPTS)] for i in range(STREAMS)]
    started = time.perf_counter()
    alone = [await read(model, prompt) for prompt in wanted]
    between = time.perf_counter()
    together = await asyncio.gather(*(read(model, prompt) for prompt in wanted))
    ended = time.perf_counter()
    tokens = STREAMS * TOKENS
    return {
        "streams": STREAMS,
        "tokens_per_s_one_by_one": round(tokens / (between - started), 1),
        "tokens_per_s_together": round(tokens / (ended - between), 1),
        "equal": sum(one == other for one, other in zip(alone, together, strict=True)),
    }


async def measure_requests(model: Model) -> dict[str, Any]:
    """Measure memory and threads before and after many streams."""
    draw = random.Random(0)

    async def one(number: int) -> None:
        prompt = PROMPTS[number % len(PROMPTS)]
        if number % 5 == 0:  # cancelled
            task = asyncio.create_task(read(model, prompt))
            await asyncio.sleep(0.1 * draw.random())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return
        left = draw.randrange(TOKENS) if number % 5 == 1 else TOKENS
        options = {**OPTIONS, "max_new_tokens": TOKENS}
        async with aclosing(model.astream(prompt, **options)) as pieces:
            count = 0
            async for _ in pieces:
                if (count := count + 1) > left:
                    break

    async def some(count: int) -> dict[str, float]:
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(*map(one, range(first, first + AT_ONCE)))
        gc.collect()
        return {"resident_mb": resident_mb(), "threads": threading.active_count()}

    before = await some(WARM_UP)
    return {"requests": REQUESTS, "before": before, "after": await some(REQUESTS)}


def resident_mb() -> float:
    """Return the resident memory in MB of 10^6 bytes; Linux only."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmRSS:")[1].split()[0]) * 1.024e-3, 1)


async def measure(model: Model) -> dict[str, Any]:
    """Run all three measurements."""
    return {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "onnxruntime": onnxruntime.__version__,
        "model": str(model.bundle.manifest.source.id),
        "loop": await measure_loop(model),
        "streams": await measure_streams(model),
        "requests": await measure_requests(model),
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", nargs="?", help="default: the demo GPT-2")
    arguments = parser.parse_args()
    try:
        model = load(arguments.bundle)
    except EdgeseqError as error:
        sys.exit(f"embedding.py: {error}")
    print(json.dumps(asyncio.run(measure(model))))


if __name__ == "__main__":
    main()
