"""Comparison of a device's texts and scores with the CPU's, for ``verify_device.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from edgeseq.runtime import Model

Ids = list[int]
Texts = list[tuple[int, ...]]
LEAST_SAME = 0.5  # share of equal texts: float16 rounding may decide a near tie differently
LARGEST_DIFFERENCE = 0.1  # of a token's log-probability, nats
LENGTH: dict[str, Any] = {"max_new_tokens": 16, "eos_token_id": None}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy with penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    "4 beams": {"num_beams": 4},
    "3 of 4 beams": {"num_beams": 4, "num_return_sequences": 3},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "drawn": {"do_sample": True, "top_k": 20, "seed": 1},
    "drawn from all": {"do_sample": True, "top_k": 0, "seed": 1},
}
Found = tuple[str, bool | None, str]


def parity(there: Model, here: Model, prompts: list[Ids]) -> Iterator[Found]:
    """Yield each check's name, whether it passed (None: sampling may differ), and its result."""
    for way, options in WAYS.items():
        least = None if "do_sample" in options else LEAST_SAME
        yield _same(
            f"texts, {way}", least, partial(_batch, prompts=prompts, options=options), there, here
        )
    if there.bundle.manifest.kind == "decoder-only":
        lookup = {"prompt_lookup_num_tokens": 5}
        yield _same(
            "texts, prompt lookup",
            LEAST_SAME,
            lambda model: [ids for prompt in prompts for ids in _batch(model, [prompt], lookup)],
            there,
            here,
        )
    yield _same("texts, a session", LEAST_SAME, partial(_session, prompts=prompts), there, here)
    best, full = (_batch(there, prompts, options) for options in ({}, {"logprobs": 1}))
    said = "the same ids" if best == full else "other ids"
    yield "greedy with the best logits alone", best == full, said
    scores = [model.score(*_pair(model, prompts[-1])).log_probabilities for model in (there, here)]
    pairs = [pair for pair in zip(*scores, strict=True) if None not in pair]
    largest = max(abs(a - b) for a, b in pairs)
    yield "scores", largest < LARGEST_DIFFERENCE, f"largest difference {largest:.2e} nats a token"


def _same(
    name: str, least: float | None, texts: Callable[[Model], Texts], there: Model, here: Model
) -> Found:
    found, expected = texts(there), texts(here)
    same = int(np.sum([a == b for a, b in zip(found, expected, strict=True)]))
    passed = None if least is None else same >= least * len(expected)
    return name, passed, f"{same} of {len(expected)} equal the CPU's"


def _batch(model: Model, prompts: list[Ids], options: dict[str, Any]) -> Texts:
    given = {"do_sample": False, **LENGTH, **options}
    return [result.token_ids for result in model.generate_ids(prompts, **given)]


def _session(model: Model, prompts: list[Ids]) -> Texts:
    """Return texts from a session: of a prompt's first half, the whole prompt, and a fork."""
    found = []
    with model.session() as session:
        for prompt in prompts:
            for part in (prompt[: len(prompt) // 2], prompt):
                found += session.generate_ids(part, do_sample=False, **LENGTH)
            with session.fork() as fork:
                found += fork.generate_ids(prompt, do_sample=False, **LENGTH)
    return [result.token_ids for result in found]


def _pair(model: Model, ids: Ids) -> list[str]:
    """Return the arguments of ``score``: a text, and a target if the model has an encoder."""
    text = model.tokenizer.decode(ids)
    return [text] if model.bundle.manifest.kind == "decoder-only" else [text, text]
