"""Measure beam search: its decode steps per second beside greedy search, and its cache copies.

    python benchmarks/beam_search.py BUNDLE [--prompts FILE]

Part 1 measures time. Beam search with 4 beams of one prompt and greedy search of 4 prompts in a
batch take turns. Both generate 64 new tokens after 32 random ids, without an end-of-sequence token.
Only decode steps count. "outside" is their time outside `session.run`: the search, the KV cache and
the bookkeeping. Not timed: loading, prefill, one warm-up generation of each.

Part 2 counts bytes on texts (``--prompts``: one a line; default: a few beginnings of tales). It
counts the bytes of self-attention cache that a decode step of beam search copies. It compares them
with a reorder that copies every row whole, as `index_select` does, and with copying whole only the
rows that change. The ancestor distance of a copy is the number of copied positions: the positions
since the last common ancestor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnxruntime
from loop_overhead import TimedSession

from edgeseq.runtime import EdgeseqError, Model
from edgeseq.runtime.bundle.reading import Bundle, open_bundle
from edgeseq.runtime.loading import open_tokenizer
from edgeseq.runtime.ort.engine import Engine, with_cache
from edgeseq.runtime.ort.graph_session import open_session
from edgeseq.runtime.ort.memory import Buffer, CpuMemory

BEAMS = 4
PROMPT_TOKENS = 32
NEW_TOKENS = 64
OPTIONS: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
PROMPTS = (
    "Once upon a time there was a",
    "The old king had three sons, and the youngest",
    "In the middle of the forest stood a little house, and",
    "The fox said to the crow:",
    "A poor miller had a daughter who",
    "When the winter came, the two sisters",
)


class CountingMemory(CpuMemory):
    """Main memory that records copies between the rows of a KV cache."""

    def __init__(self) -> None:
        self.copies: list[tuple[int, int]] = []  # begin and end of positions

    def copy_row(self, block: Buffer, source: int, target: int, begin: int, end: int) -> None:
        """Record the copy, and copy."""
        self.copies.append((begin, end))
        super().copy_row(block, source, target, begin, end)


class CountedSession(TimedSession):
    """A session that also records the memory's copies before each run."""

    def __init__(self, session: onnxruntime.InferenceSession, memory: CountingMemory) -> None:
        super().__init__(session)
        self.memory = memory
        self.steps: list[list[tuple[int, int]]] = []

    def run_with_iobinding(self, *arguments: Any) -> None:
        """Record the copies since the last run, and run."""
        self.steps.append(self.memory.copies)
        self.memory.copies = []
        super().run_with_iobinding(*arguments)


def counted_model(bundle: Bundle, threads: int | None) -> tuple[Model, CountedSession]:
    """Return a model whose decoder session records times and copies, and that session."""
    memory = CountingMemory()
    sessions: dict[str, Any] = {
        role: open_session(bundle.file(name), threads=threads)
        for role, name in bundle.manifest.graphs.items()
    }
    sessions["decoder"] = CountedSession(sessions["decoder"], memory)
    engine = Engine(bundle.manifest, sessions, memory=memory)
    return Model(bundle, open_tokenizer(bundle), engine), sessions["decoder"]


def timed(
    model: Model, session: CountedSession, prompts: Any, **options: Any
) -> tuple[float, float]:
    """Return the decode steps per second, and the share of their time outside `session.run`."""
    session.runs.clear()
    model.generate_ids(prompts, eos_token_id=None, max_new_tokens=NEW_TOKENS, **OPTIONS, **options)
    ended = time.perf_counter()
    prefills = len(session.runs) - (NEW_TOKENS - 1)
    steps = session.runs[prefills:]
    # From the end of the prefill on: choosing the first tokens belongs to the steps' work.
    total = ended - session.runs[prefills - 1][1]
    inside = sum(end - start for start, end in steps)
    return len(steps) / total, 1 - inside / total


def measure_speed(bundle: Bundle, threads: int | None, rounds: int) -> dict[str, Any]:
    """Measure beam search beside greedy search of a batch with as many rows."""
    model, session = counted_model(bundle, threads)
    vocabulary = bundle.manifest.dimensions.vocabulary
    ids = np.random.default_rng(0).integers(0, vocabulary, (BEAMS, PROMPT_TOKENS)).tolist()
    found: dict[str, list[tuple[float, float]]] = {"greedy": [], "beams": []}
    for number in range(rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        greedy = timed(model, session, ids)
        beams = timed(model, session, ids[:1], num_beams=BEAMS)
        if number:  # the first round is a warm-up
            found["greedy"].append(greedy)
            found["beams"].append(beams)
    ratios = [b[0] / g[0] for b, g in zip(found["beams"], found["greedy"], strict=True)]
    figures: dict[str, Any] = {"beam_steps_over_greedy": spread(ratios)}
    for name, values in found.items():
        figures[f"{name}_steps_s"] = spread([steps for steps, _ in values])
        figures[f"{name}_outside_percent"] = spread([100 * outside for _, outside in values])
    return figures


def count_copies(bundle: Bundle, threads: int | None, prompts: Sequence[str]) -> dict[str, Any]:
    """Count the bytes that decode steps of beam search copy on real texts."""
    model, session = counted_model(bundle, threads)
    copied = moved = full = steps = 0
    distances: list[int] = []
    for prompt in prompts:
        session.steps.clear()
        [result] = model.generate(prompt, num_beams=BEAMS, max_new_tokens=NEW_TOKENS, **OPTIONS)
        start = result.prompt_tokens if bundle.manifest.kind == "decoder-only" else 1
        # The first step of beam search copies the prompt's only row to all rows: leave it out.
        beam_steps = session.steps[len(session.steps) - (result.generated_tokens - 1) + 1 :]
        for number, copies in enumerate(beam_steps, start + 1):
            steps += 1
            full += BEAMS * number
            moved += sum(end for _, end in copies)
            copied += sum(end - begin for begin, end in copies)
            distances += [end - begin for begin, end in copies]
    sizes = bundle.manifest.dimensions
    itemsize = np.dtype(bundle.manifest.kv_cache.dtype).itemsize
    position = 2 * sizes.layers * sizes.heads * sizes.stored_head_size * itemsize
    return {
        "beam_steps": steps,
        "copied_bytes_a_step": round(copied * position / steps),
        "full_reorder_bytes_a_step": round(full * position / steps),
        "changed_rows_bytes_a_step": round(moved * position / steps),
        "fewer_than_full_reorder": round(full / max(copied, 1), 1),
        "fewer_than_changed_rows": round(moved / max(copied, 1), 1),
        "copies_a_step": round(len(distances) / steps, 2),
        "ancestor_distances": {str(d): distances.count(d) for d in sorted(set(distances))},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the 10th and 90th percentile of ``values``."""
    low, *_, high = quantiles(values, n=10, method="inclusive")
    return {"median": round(median(values), 4), "p10": round(low, 4), "p90": round(high, 4)}


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Beam search: speed and copies.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompts", type=Path, help="prompts to count copies on, one a line")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9, help="0: count only")
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    manifest = with_cache(bundle.manifest, bundle.manifest.kv_cache.dtype)
    bundle = replace(bundle, manifest=manifest)
    prompts: Sequence[str] = PROMPTS
    if arguments.prompts is not None:
        prompts = arguments.prompts.read_text(encoding="utf-8").splitlines()
    figures: dict[str, Any] = {
        "bundle": arguments.bundle.name,
        "onnxruntime": onnxruntime.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    if arguments.rounds:
        figures |= measure_speed(bundle, arguments.threads, arguments.rounds)
    figures |= count_copies(bundle, arguments.threads, prompts)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
