"""A model inside a program: its event loop, many streams at once, and what a thousand leave behind.

    python benchmarks/embedding.py [BUNDLE]

Without a bundle it is the demo GPT-2. Three measurements, printed as JSON:

- ``loop``: an event loop that wakes every millisecond, alone and while a stream is read: how much
  later than asked for it woke. Beside it how long a token takes.
- ``streams``: 50 streams at once against one after the other: tokens a second, and whether each
  text is what its prompt gives alone.
- ``requests``: 1,000 streams, ten at a time, of which two in five are left or cancelled at a random
  point: resident memory and threads before and after. The first 100 are not counted: caches of
  Python's and of ONNX Runtime's fill up.

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
    """A stream's whole text."""
    options = {**OPTIONS, "max_new_tokens": tokens}
    return "".join([piece async for piece in model.astream(prompt, **options)])


async def delays_ms(work: Any) -> list[float]:
    """How much later than asked for the loop woke, until ``work`` is done."""
    found = []
    task = asyncio.ensure_future(work)
    while not task.done():
        asked = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        found.append(1e3 * (time.perf_counter() - asked))
    await task
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, 99 in 100, and the largest."""
    cuts = quantiles(values, n=100)
    return {name: round(v, 3) for name, v in (("p50", median(values)), ("p99", cuts[98]))} | {
        "max": round(max(values), 3)
    }


async def measure_loop(model: Model) -> dict[str, Any]:
    """Delays of a loop that does nothing else, and of one that reads a stream meanwhile."""

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
    """Many streams at once against one after the other."""
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
    """Memory and threads before and after many streams."""
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
        async with aclosing(model.astream(prompt, **options)) as pieces:  # type: ignore[type-var]
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
    """Resident memory, MB of 10^6 bytes; needs Linux's /proc."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmRSS:")[1].split()[0]) * 1.024e-3, 1)


async def measure(model: Model) -> dict[str, Any]:
    """All three."""
    return {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "onnxruntime": onnxruntime.__version__,
        "model": str(model.bundle.manifest.source.id),
        "loop": await measure_loop(model),
        "streams": await measure_streams(model),
        "requests": await measure_requests(model),
    }


def main() -> None:
    """Measure and print."""
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
