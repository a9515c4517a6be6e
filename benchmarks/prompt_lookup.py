"""Compare prompt lookup decoding with greedy search: equal ids, and the speed-up.

    python benchmarks/prompt_lookup.py BUNDLE --prompts FILE [--name copying]

``FILE`` holds one prompt per line, as a JSON string. For each prompt, generations with and without
``prompt_lookup_num_tokens`` take turns, and their times after the first token are compared. Not
timed: loading, prefill, a first generation of each prompt.

If ids differ, the margin between the two highest logits at the first difference is recorded: with a
float32 KV cache, several tokens at once are computed in another order than one token, which may
decide a near tie differently.

``--forced``: a logits processor forces the output to repeat the prompt, for models of real
dimensions with random weights. Both sides spend its time. ``--nothing-repeats``: no pair of tokens
may occur twice (``no_repeat_ngram_size=2``, on both sides), so that every guess is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnxruntime

from edgeseq.runtime import EdgeseqError, GenerationResult, Model, load

NEAR_TIE = 1e-3


def repeating(prompt: Sequence[int]) -> Any:
    """Return a logits processor that makes the output repeat the prompt."""

    def process(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
        logits[prompt[(len(tokens) - len(prompt)) % len(prompt)]] += 1e4
        return logits

    return process


def generate(model: Model, prompt: Sequence[int], tokens: int, **options: Any) -> GenerationResult:
    """Return the result of a greedy generation from one prompt."""
    return model.generate_ids(
        [prompt], do_sample=False, repetition_penalty=1.0, max_new_tokens=tokens, **options
    )[0]


def decoding_s(result: GenerationResult) -> float:
    """Return the seconds from the first to the last token."""
    return result.timings.total_s - result.timings.first_token_s


def margin_where_they_part(
    model: Model, prompt: Sequence[int], one: Sequence[int], other: Sequence[int]
) -> float | None:
    """Return the margin of the two highest logits at the first different token; None if equal."""
    at = next(
        (i for i, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1), None
    )
    if at is None:
        return None
    known = generate(model, [*prompt, *one[:at]], 1, logprobs=2)
    assert known.top_logprobs is not None
    (_, best), (_, second) = known.top_logprobs[0]
    return best - second


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Prompt lookup against greedy search.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--name", default="", help="of the set of prompts, for the report")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=100, help="new tokens a prompt at most")
    parser.add_argument("--lookup", type=int, default=10, help="tokens guessed at once at most")
    parser.add_argument("--forced", action="store_true", help="force outputs to repeat the prompt")
    parser.add_argument("--nothing-repeats", action="store_true", help="no pair comes twice")
    arguments = parser.parse_args()
    model = load(arguments.bundle, threads=arguments.threads)
    lines = arguments.prompts.read_text(encoding="utf-8").splitlines()
    prompts = [model.tokenizer.encode(json.loads(line)) for line in lines]
    ratios: list[float] = []
    margins: list[float] = []
    tokens = 0
    for number, prompt in enumerate(prompts):
        print(f"prompt {number + 1} of {len(prompts)}", file=sys.stderr, flush=True)
        options: dict[str, Any] = {}
        if arguments.forced:
            options = {"logits_processor": repeating(prompt), "eos_token_id": None}
        if arguments.nothing_repeats:
            options["no_repeat_ngram_size"] = 2
        lookup = {**options, "prompt_lookup_num_tokens": arguments.lookup}
        plain = generate(model, prompt, arguments.tokens, **options)
        found = generate(model, prompt, arguments.tokens, **lookup)
        tokens += plain.generated_tokens
        margin = margin_where_they_part(model, prompt, plain.token_ids, found.token_ids)
        if margin is not None:
            margins.append(margin)
        paired = []
        for _ in range(arguments.rounds):
            greedy_s = decoding_s(generate(model, prompt, arguments.tokens, **options))
            lookup_s = decoding_s(generate(model, prompt, arguments.tokens, **lookup))
            paired.append(greedy_s / lookup_s)
        ratios.append(median(paired))
    low, *_, high = quantiles(ratios, n=10, method="inclusive")
    figures = {
        "bundle": arguments.bundle.name,
        "set": arguments.name,
        "forced": arguments.forced,
        "nothing_repeats": arguments.nothing_repeats,
        "onnxruntime": onnxruntime.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "prompts": len(prompts),
        "tokens": tokens,
        "speed_up": {
            "median": round(median(ratios), 3),
            "p10": round(low, 3),
            "p90": round(high, 3),
        },
        "lowest_speed_up": round(min(ratios), 3),
        "prompts_that_differ": len(margins),
        "of_them_near_ties": sum(margin < NEAR_TIE for margin in margins),
    }
    for name, value in figures.items():
        print(f"{name:28} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
