"""Compare the time to first token of a session and of a fresh call, for a prompt that grew.

    python benchmarks/session_reuse.py BUNDLE

A prompt of 900 random tokens (or as many as the model has positions for) is extended by 5. Both
sides generate 16 tokens from the longer prompt, in turns: `Model.generate_ids`, and a session that
has just generated one token from the shorter prompt. Their times to first token and their ids are
compared. Not timed: loading, the session's call on the shorter prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnxruntime

from edgeseq.runtime import EdgeseqError, load

PROMPT_TOKENS = 900
EXTENSION = 5
NEW_TOKENS = 16


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="A session against fresh calls.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    model = load(arguments.bundle, threads=arguments.threads)
    sizes = model.bundle.manifest.dimensions
    length = min(PROMPT_TOKENS, (sizes.max_positions or 2**20) - EXTENSION - NEW_TOKENS)
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {
        "do_sample": False,
        "repetition_penalty": 1.0,
        "eos_token_id": None,
        "max_new_tokens": NEW_TOKENS,
    }
    fresh_ms, session_ms, differing = [], [], 0
    for number in range(arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", file=sys.stderr, flush=True)
        longer = rng.integers(0, sizes.vocabulary, length + EXTENSION).tolist()
        with model.session() as session:
            session.generate_ids(longer[:length], **{**options, "max_new_tokens": 1})
            [fresh] = model.generate_ids([longer], **options)
            [reused] = session.generate_ids(longer, **options)
        if number:  # the first round is a warm-up
            fresh_ms.append(1e3 * fresh.timings.first_token_s)
            session_ms.append(1e3 * reused.timings.first_token_s)
            differing += fresh.token_ids != reused.token_ids
    ratios = [s / f for s, f in zip(session_ms, fresh_ms, strict=True)]
    low, *_, high = quantiles(ratios, n=10, method="inclusive")
    figures = {
        "bundle": arguments.bundle.name,
        "onnxruntime": onnxruntime.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "prompt_tokens": length,
        "fresh_first_token_ms": round(median(fresh_ms), 2),
        "session_first_token_ms": round(median(session_ms), 2),
        "ratio": {"median": round(median(ratios), 4), "p10": round(low, 4), "p90": round(high, 4)},
        "texts_that_differ": differing,
        "rounds": arguments.rounds,
    }
    for name, value in figures.items():
        print(f"{name:28} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
