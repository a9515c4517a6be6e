"""Compare calls that run at the same time with the same calls one after the other.

    python -m benchmarks.many_streams BUNDLE

N threads each generate 64 tokens from their own random prompt of 16 tokens. Every round runs the N
calls at the same time, and then one after the other, and compares their texts. Then it measures the
time to first token of a prompt of 16 tokens, alone and while a prompt of 900 tokens is read (or as
many as the model has positions for). Loading is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from edgeseq.runtime import EdgeseqError, Model, load

STREAMS = (1, 4, 8, 16)
PROMPT_TOKENS = 16
LONG_PROMPT_TOKENS = 900
NEW_TOKENS = 64
OPTIONS: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "eos_token_id": None}


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Calls at the same time, and one by one.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    arguments = parser.parse_args()
    most = max(arguments.streams)
    model = load(arguments.bundle, threads=arguments.threads, max_concurrent=most + 2)
    rng = np.random.default_rng(0)
    prompts = [random_ids(model, PROMPT_TOKENS, rng) for _ in range(most)]
    model.generate_ids(prompts[:1], max_new_tokens=NEW_TOKENS, **OPTIONS)  # warm-up
    figures: dict[str, Any] = {
        "bundle": arguments.bundle.name,
        "kernels": model.kernels,
        "onnxruntime": onnxruntime.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "rounds": arguments.rounds,
        "new_tokens": NEW_TOKENS,
        "texts_that_differ": 0,
    }
    together: dict[int, list[float]] = {count: [] for count in arguments.streams}
    in_turn: dict[int, list[float]] = {count: [] for count in arguments.streams}
    for number in range(arguments.rounds):
        for count in arguments.streams:
            print(f"round {number + 1}, {count} streams", file=sys.stderr, flush=True)
            s, texts = timed(model, prompts[:count], workers=count)
            together[count].append(count * NEW_TOKENS / s)
            s, alone = timed(model, prompts[:count], workers=1)
            in_turn[count].append(count * NEW_TOKENS / s)
            figures["texts_that_differ"] += sum(a != b for a, b in zip(texts, alone, strict=True))
    for count in arguments.streams:
        ratios = [a / b for a, b in zip(together[count], in_turn[count], strict=True)]
        figures[f"{count}_streams"] = {
            "together_tokens_per_s": round(median(together[count]), 1),
            "one_by_one_tokens_per_s": round(median(in_turn[count]), 1),
            "ratio": round(median(ratios), 2),
        }
    figures |= first_tokens(model, rng, arguments.rounds)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    print(json.dumps(figures))


def random_ids(model: Model, length: int, rng: np.random.Generator) -> list[int]:
    """Return random token ids."""
    vocabulary = model.bundle.manifest.dimensions.vocabulary
    ids: list[int] = rng.integers(0, vocabulary, length).tolist()
    return ids


def timed(
    model: Model, prompts: Sequence[list[int]], workers: int
) -> tuple[float, list[tuple[int, ...]]]:
    """Return the seconds for all prompts with ``workers`` threads, and the texts."""

    def generate(prompt: list[int]) -> tuple[int, ...]:
        [result] = model.generate_ids([prompt], max_new_tokens=NEW_TOKENS, **OPTIONS)
        return tuple(result.token_ids)

    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        texts = list(pool.map(generate, prompts))
        return time.perf_counter() - began, texts


def first_tokens(model: Model, rng: np.random.Generator, rounds: int) -> dict[str, Any]:
    """Return the times to first token of a short prompt, alone and beside a long one."""
    positions = model.bundle.manifest.dimensions.max_positions or 2**20
    length = min(LONG_PROMPT_TOKENS, positions - NEW_TOKENS)
    alone_ms, beside_ms = [], []
    for _ in range(rounds):
        short, long = random_ids(model, PROMPT_TOKENS, rng), random_ids(model, length, rng)
        [alone] = model.generate_ids([short], max_new_tokens=1, **OPTIONS)
        reading = threading.Event()

        def cancelled(reading: threading.Event = reading) -> bool:
            reading.set()  # it is called before the first chunk is read
            return False

        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(
                model.generate_ids, [long], max_new_tokens=1, cancel=cancelled, **OPTIONS
            )
            reading.wait()
            [beside] = model.generate_ids([short], max_new_tokens=1, **OPTIONS)
            other.result()
        alone_ms.append(1e3 * alone.timings.first_token_s)
        beside_ms.append(1e3 * beside.timings.first_token_s)
    return {
        "long_prompt_tokens": length,
        "first_token_alone_ms": round(median(alone_ms), 1),
        "first_token_beside_long_ms": round(median(beside_ms), 1),
    }


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
