"""Greedy continuations of prompts, and the agreement of two models on them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..model import Model
from ..request.passages import Passages
from ..request.resolving import resolve_options
from ..results import GenerationResult

BATCH = 32  # texts that are generated at once
PROMPTS = 32  # limit of prompts whose continuations are compared
PROMPT_TOKENS = 32  # tokens of a text in each prompt
NEW_TOKENS = 64  # tokens of a continuation that are compared


@dataclass(frozen=True, kw_only=True)
class ContinuationAgreement:
    """The share of continuations on which two models agree."""

    continuations: int  # number of compared continuations
    tokens: int  # length of each continuation
    identical: float  # share of continuations with the same tokens


def agreement(model: Model, reference: Model, passages: Passages) -> ContinuationAgreement:
    """Return how often two models with the same vocabulary continue prompts with the same tokens.

    The prompts are evenly spaced parts of a text in ``passages``, or evenly spaced prompts. Both
    models use greedy search without ``repetition_penalty`` and ``no_repeat_ngram_size``. They
    generate beyond an end-of-sequence token, so that all continuations are equally long, and are
    compared up to it. The models' positions may end continuations early.
    """
    manifest = reference.bundle.manifest
    prompts = _prompts(passages, manifest.dimensions.max_positions)
    ends = resolve_options(manifest.generation, {}, manifest.kind).eos_token_ids
    texts, expected = ([r.token_ids for r in _continue(m, prompts)] for m in (model, reference))
    same = sum(
        _up_to(ends, ids) == _up_to(ends, others)
        for ids, others in zip(texts, expected, strict=True)
    )
    return ContinuationAgreement(
        continuations=len(prompts),
        tokens=min(map(len, expected)),
        identical=same / len(prompts),
    )


def _up_to(ends: Collection[int], ids: Sequence[int]) -> Sequence[int]:
    """Return the token ids up to the first one of ``ends``, which is included."""
    places = (i for i, token in enumerate(ids) if token in ends)
    return ids[: next(places, len(ids)) + 1]


def _continue(model: Model, prompts: Sequence[Sequence[int]]) -> list[GenerationResult]:
    return model.generate_ids(
        prompts,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=None,
    )


def _prompts(passages: Passages, positions: int | None) -> list[Sequence[int]]:
    if passages.pairs:
        sources = [window.prompt for window in passages.windows]
        return [sources[i] for i in _evenly(len(sources) - 1, min(PROMPTS, len(sources)))]
    # The last new token is never read, so it needs no position.
    room = PROMPT_TOKENS if positions is None else positions + 1 - NEW_TOKENS
    length = max(min(PROMPT_TOKENS, room, len(passages.ids)), 1)
    count = min(PROMPTS, len(passages.ids) // length)
    starts = _evenly(len(passages.ids) - length, count)
    return [passages.ids[start : start + length] for start in starts]


def _evenly(last: int, count: int) -> list[int]:
    """Return ``count`` evenly spaced integers from 0 to ``last``."""
    numbers: list[int] = np.linspace(0, last, count).astype(int).tolist()
    return numbers
