"""Measure rows per second of a file run with several processes, beside one process.

    python benchmarks/file_workers.py BUNDLE --threads 2 --workers 1 2

Every round answers the same rows with each number of processes, which share the threads, as
`edgeseq run --input FILE --workers N --threads T` does. Texts have 8 to 64 random words, and every
answer has the same number of new tokens. Loading and one window for each process come before the
clock starts. Memory is that of one process: its peak, and what it shares with no other process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from edgeseq.batch.files import WINDOW, Window
from edgeseq.batch.job import Item
from edgeseq.batch.workers import Setup, Usage, Workers
from edgeseq.runtime import EdgeseqError
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.tasks.templates import read_template

TEMPLATE = """\
["decoder-only"]
prompt = "{text}"
["encoder-decoder"]
prompt = "{text}"
"""
WORDS = [
    "the",
    "king",
    "had",
    "three",
    "sons",
    "and",
    "a",
    "fox",
    "went",
    "over",
    "hills",
    "to",
    "find",
    "water",
    "of",
    "life",
    "at",
    "night",
]
LENGTHS = (8, 64)  # words of the shortest and the longest text
OPTIONS: dict[str, Any] = {"do_sample": False, "num_beams": 1, "eos_token_id": None}


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Several processes beside one.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, help="of all processes together")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    setup = setup_of(given.bundle, given.new_tokens)
    windows = windows_of(given.rows)
    rates: dict[int, list[float]] = {count: [] for count in given.workers}
    usages: dict[int, list[Usage]] = {count: [] for count in given.workers}
    answers: list[Any] = []
    for number in range(given.rounds):
        for count in given.workers:
            print(f"round {number + 1}, workers: {count}", file=sys.stderr, flush=True)
            with Workers(setup, count, given.threads, say) as workers:
                list(workers(windows[:1] * count))  # warm-up
                began = time.perf_counter()
                found = list(workers(windows))
                rates[count].append(given.rows / (time.perf_counter() - began))
                usages[count] += workers.usage()
            answers.append([answer for _, of_window in found for answer in of_window])
    figures: dict[str, Any] = {
        "bundle": given.bundle.name,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "threads": given.threads,
        "rows": given.rows,
        "new_tokens": given.new_tokens,
        "rounds": given.rounds,
        "runs_that_differ": sum(one != answers[0] for one in answers),
    }
    first = rates[given.workers[0]]
    for count in given.workers:
        ratios = [a / b for a, b in zip(rates[count], first, strict=True)]
        figures[f"{count}_workers"] = {
            "rows_per_s": round(median(rates[count]), 2),
            "ratio": round(median(ratios), 3),
            "peak_mb": highest([usage.peak_mb for usage in usages[count]]),
            "own_mb": highest([usage.own_mb for usage in usages[count]]),
        }
    for name, value in figures.items():
        print(f"{name:20} {value}")
    print(json.dumps(figures))


def setup_of(bundle: Path, new_tokens: int) -> Setup:
    """Return a task that continues the text itself, with ``new_tokens`` tokens."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "continue.toml"
        path.write_text(TEMPLATE, encoding="utf-8")
        return Setup(
            bundle=open_bundle(bundle).folder,
            loading={},
            template=read_template(path),
            options={**OPTIONS, "max_new_tokens": new_tokens},
            constants={},
            columns=["text"],
        )


def windows_of(rows: int) -> list[Window]:
    """Return random texts of different lengths, in windows."""
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(*LENGTHS))) for _ in range(rows)]
    items = [Item(i, b"", {"text": text}, None) for i, text in enumerate(texts)]
    return [
        Window([(item, None) for item in items[start : start + WINDOW]], 0)
        for start in range(0, rows, WINDOW)
    ]


def highest(sizes: list[float | None]) -> float | None:
    """Return the largest size in MB; None if none is known."""
    known = [size for size in sizes if size is not None]
    return round(max(known), 1) if known else None


def say(message: str) -> None:
    """Print a message of the processes."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
