"""Measure the rows per second of file runs: recipes, and several processes beside one.

    python benchmarks/file_workers.py BUNDLE... --threads 2 --workers 1 2

Every round answers the same rows with each bundle and each number of processes, which share the
threads, as `edgeseq run --input FILE --workers N --threads T` does. Texts have random words, and
every answer has the same number of new tokens. Loading and one window for each process come before
the clock starts. Memory is that of one process: its peak, and what it shares with no other process.
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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from edgeseq.batch.files import WINDOW, Window
from edgeseq.batch.job import Item
from edgeseq.batch.workers import Setup, Usage, Workers
from edgeseq.runtime import EdgeseqError, load
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.tasks.templates import read_template

TEMPLATE = """\
["decoder-only"]
prompt = "{text}"
["encoder-decoder"]
prompt = "{text}"
"""
SETTINGS = ("threads", "rows", "words", "new_tokens", "rounds")  # that are printed, too
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
OPTIONS: dict[str, Any] = {"do_sample": False, "num_beams": 1, "eos_token_id": None}


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Rows per second of file runs.")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--threads", type=int, help="of all processes together")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--words", type=int, nargs=2, default=[8, 64], metavar=("LEAST", "MOST"))
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    texts = random_texts(given.rows, *given.words)
    windows = windows_of(texts)
    runs: dict[tuple[Path, int], Runs] = {
        (bundle, count): Runs() for bundle in given.bundles for count in given.workers
    }
    for number in range(given.rounds):
        for (bundle, count), measured in runs.items():
            say(f"round {number + 1}, {bundle.name}, workers: {count}")
            with Workers(setup_of(bundle, given.new_tokens), count, given.threads, say) as workers:
                list(workers(windows[:1] * count))  # warm-up
                began = time.perf_counter()
                found = list(workers(windows))
                measured.rates.append(given.rows / (time.perf_counter() - began))
                measured.usages += workers.usage()
            measured.answers.append([answer for _, answers in found for answer in answers])
    figures = {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **{name: getattr(given, name) for name in SETTINGS},
        "bundles": {
            bundle.name: {
                "prompt_tokens": prompt_tokens(bundle, texts),
                "workers": {
                    count: runs[bundle, count].figures(beside=runs[bundle, given.workers[0]])
                    for count in given.workers
                },
            }
            for bundle in given.bundles
        },
    }
    print(json.dumps(figures))


@dataclass
class Runs:
    """The runs of a bundle with one number of processes, a value for each round."""

    rates: list[float] = field(default_factory=list)  # rows per second
    usages: list[Usage] = field(default_factory=list)  # of all processes of all rounds
    answers: list[list[Any]] = field(default_factory=list)

    def figures(self, beside: Runs) -> dict[str, Any]:
        """Return medians over the rounds; ``ratio`` is that to the same rounds of ``beside``."""
        ratios = [ours / theirs for ours, theirs in zip(self.rates, beside.rates, strict=True)]
        return {
            "rows_per_s": round(median(self.rates), 3),
            "lowest": round(min(self.rates), 3),
            "highest": round(max(self.rates), 3),
            "ratio": round(median(ratios), 3),
            "peak_mb": highest([usage.peak_mb for usage in self.usages]),
            "own_mb": highest([usage.own_mb for usage in self.usages]),
            "runs_that_differ": sum(one != beside.answers[0] for one in self.answers),
        }


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


def random_texts(rows: int, least: int, most: int) -> list[str]:
    """Return texts of ``least`` to ``most`` words, the same in every call."""
    generator = random.Random(0)
    return [
        " ".join(generator.choices(WORDS, k=generator.randint(least, most))) for _ in range(rows)
    ]


def windows_of(texts: list[str]) -> list[Window]:
    """Return the texts as rows in windows."""
    items = [Item(i, b"", {"text": text}, None) for i, text in enumerate(texts)]
    return [
        Window([(item, None) for item in items[start : start + WINDOW]], 0)
        for start in range(0, len(items), WINDOW)
    ]


def prompt_tokens(bundle: Path, texts: list[str]) -> float:
    """Return the mean number of tokens of the texts."""
    with load(bundle) as model:
        return round(sum(len(model.tokenizer.encode(text)) for text in texts) / len(texts), 1)


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
