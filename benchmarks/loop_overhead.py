"""Measure the loop overhead, and how the time of a decode step grows with the context.

    python benchmarks/loop_overhead.py BUNDLE

The loop overhead is the time from the end of one `session.run` to the start of the next, for batch
1: choosing the token, bookkeeping, and detokenizing when streaming. Then the time inside
`session.run` is measured by context length, and how much of it is attention, from ONNX Runtime's
profile. The rest should not grow with the context. Not timed: loading, prefill, the first ten
steps. The end-of-sequence token is disabled.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import onnxruntime

from edgeseq.runtime import EdgeseqError, Model
from edgeseq.runtime.bundle.reading import Bundle, open_bundle
from edgeseq.runtime.loading import open_tokenizer
from edgeseq.runtime.ort.engine import Engine, with_cache
from edgeseq.runtime.ort.graph_session import open_session, session_options

WARM_UP_STEPS = 10
PROMPT_TOKENS = 16  # with an encoder: of its source; the decoder then starts with one token
ATTENTIONS = ("GroupQueryAttention", "MultiHeadAttention")
OPTIONS: dict[str, Any] = {"eos_token_id": None, "do_sample": False}


class TimedSession:
    """A session that records the start and the end of each run."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.runs: list[tuple[float, float]] = []

    def io_binding(self) -> onnxruntime.IOBinding:
        """Return a binding of the session."""
        return self._session.io_binding()

    def run_with_iobinding(self, *arguments: Any) -> None:
        """Run and record the times."""
        started = time.perf_counter()
        self._session.run_with_iobinding(*arguments)
        self.runs.append((started, time.perf_counter()))

    def end_profiling(self) -> Path:
        """Return the file of the session's profile."""
        return Path(self._session.end_profiling())


def timed_model(bundle: Bundle, threads: int | None) -> tuple[Model, TimedSession]:
    """Return a model whose decoder session records times, and that session."""
    sessions = {
        role: open_session(bundle.file(name), threads=threads)
        for role, name in bundle.manifest.graphs.items()
    }
    timed = TimedSession(sessions["decoder"])
    engine = Engine(bundle.manifest, {**sessions, "decoder": timed})
    return Model(bundle, open_tokenizer(bundle), engine), timed


def gaps_ms(session: TimedSession, generate: Callable[[], object]) -> list[float]:
    """Return the ms between the runs of one generation, without the warm-up steps."""
    session.runs.clear()
    generate()
    ends = [end for _, end in session.runs[WARM_UP_STEPS:-1]]
    starts = [start for start, _ in session.runs[WARM_UP_STEPS + 1 :]]
    return [1e3 * (start - end) for end, start in zip(ends, starts, strict=True)]


def profiled_steps(
    bundle: Bundle, threads: int | None, tokens: int
) -> tuple[list[float], list[float]]:
    """Return the ms of each decode step, and of its attention, from one profiled run."""
    options = session_options(threads)
    options.enable_profiling = True
    manifest = bundle.manifest
    graph = bundle.file(manifest.graphs["decoder"])
    timed = TimedSession(
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    )
    sessions: dict[str, Any] = {"decoder": timed}
    prompts = [[1] * PROMPT_TOKENS]
    starts = prompts
    if manifest.kind == "encoder-decoder":
        sessions["encoder"] = open_session(bundle.file(manifest.graphs["encoder"]), threads=threads)
        starts = [[0]]
    decoder = Engine(manifest, sessions).decoder(prompts, len(starts[0]) + tokens)
    logits = decoder.prefill(starts)
    for _ in range(tokens - 1):
        logits = decoder.decode(logits.argmax(axis=1).tolist())
    attention_ms = attention_of_steps(timed.end_profiling(), tokens)
    return [1e3 * (end - start) for start, end in timed.runs[1:]], attention_ms


def attention_of_steps(profile: Path, steps: int) -> list[float]:
    """Return the ms of attention in each of ``steps`` except the first, from the profile."""
    events = json.loads(profile.read_text(encoding="utf-8"))
    profile.unlink()
    durations = [
        event["dur"] / 1e3
        for event in events
        if event.get("args", {}).get("op_name") in ATTENTIONS
        and event["name"].endswith("_kernel_time")
    ]
    nodes = len(durations) // steps
    return [sum(durations[i : i + nodes]) for i in range(nodes, len(durations), nodes)]


def main() -> None:
    """Measure and print a table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Loop overhead and cost by context length.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=900)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    manifest = with_cache(bundle.manifest, bundle.manifest.kv_cache.dtype)
    bundle = replace(bundle, manifest=manifest)
    model, session = timed_model(bundle, arguments.threads)
    prompt = [[1] * PROMPT_TOKENS]
    options = {**OPTIONS, "max_new_tokens": arguments.tokens}
    text = model.tokenizer.decode(prompt[0]) or "a"

    gaps: dict[str, list[float]] = {"generate_ids": [], "stream": []}
    runs_ms: list[list[float]] = []
    profiled: list[tuple[list[float], list[float]]] = []
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
        gaps["generate_ids"] += gaps_ms(session, lambda: model.generate_ids(prompt, **options))
        runs_ms.append([1e3 * (end - start) for start, end in session.runs[1:]])
        gaps["stream"] += gaps_ms(session, lambda: list(model.stream(text, **options)))
        profiled.append(profiled_steps(bundle, arguments.threads, arguments.tokens))
    report(bundle, gaps, runs_ms, profiled)


def report(
    bundle: Bundle,
    gaps: dict[str, list[float]],
    runs_ms: list[list[float]],
    profiled: list[tuple[list[float], list[float]]],
) -> None:
    """Print the table and the JSON line."""
    figures: dict[str, Any] = {
        "layers": bundle.manifest.dimensions.layers,
        "onnxruntime": onnxruntime.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    print("outside session.run, greedy, ms a token   median   10 %   90 %")
    for name, values in gaps.items():
        low, *_, high = quantiles(values, n=10)
        print(f"  {name:<38} {median(values):8.4f} {low:6.4f} {high:6.4f}")
        figures[f"{name}_overhead_ms"] = round(median(values), 4)
    print("medians of 64 steps, ms        a profiled run of its own:")
    print("context   session.run      session.run   attention   all else")
    steps = [median(step) for step in zip(*runs_ms, strict=True)]
    totals = [median(step) for step in zip(*(run for run, _ in profiled), strict=True)]
    attention = [median(step) for step in zip(*(part for _, part in profiled), strict=True)]
    rows = []
    prompt_tokens = PROMPT_TOKENS if bundle.manifest.kind == "decoder-only" else 1
    for first in range(16, len(steps) - 63, max(1, (len(steps) - 80) // 5)):
        window = slice(first, first + 64)
        row = {
            "context": prompt_tokens + first + 32,
            "run_ms": round(median(steps[window]), 3),
            "profiled_run_ms": round(median(totals[window]), 3),
            "attention_ms": round(median(attention[window]), 3),
        }
        else_ms = row["profiled_run_ms"] - row["attention_ms"]
        print(
            "{context:7} {run_ms:13} {profiled_run_ms:16} {attention_ms:11}".format(**row), end=""
        )
        print(f" {else_ms:10.3f}")
        rows.append(row)
    print(json.dumps({**figures, "by_context": rows}))


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
