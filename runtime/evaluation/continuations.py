"""Generation without sampling: outputs for sources, and the agreement of two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..model import Model
from ..request.batching import batches
from ..request.passages import Passages
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


def answers(
    model: Model, passages: Passages, progress: Callable[[int], object] = lambda texts: None
) -> list[str]:
    """Return the generated text for each source, with the bundle's defaults but without sampling.

    Sources of similar length share a batch. The limit of new tokens is the bundle's default, or
    else twice the length of the longest target. ``progress`` is called with the number of texts of
    each batch.
    """
    windows = passages.windows
    limit = 2 * max(window.predicted for window in windows)
    bundle_says = {"max_length", "max_new_tokens"} & model.bundle.manifest.generation.keys()
    options = {} if bundle_says else {"max_new_tokens": max(limit, 1)}
    texts = [""] * len(windows)
    for chosen in batches([len(window.prompt) for window in windows], rows=BATCH):
        sources = [windows[i].prompt for i in chosen]
        results = model.generate_ids(sources, do_sample=False, **options)
        for i, result in zip(chosen, results, strict=True):
            texts[i] = result.text
        progress(len(chosen))
    return texts


def agreement(model: Model, reference: Model, passages: Passages) -> ContinuationAgreement:
    """Return how often two models with the same vocabulary continue prompts with the same tokens.

    The prompts are evenly spaced parts of a text in ``passages``, or evenly spaced sources. Both
    models use greedy search without an end-of-sequence token, ``repetition_penalty`` and
    ``no_repeat_ngram_size``. The models' positions may end continuations early.
    """
    prompts = _prompts(passages, model.bundle.manifest.dimensions.max_positions)
    texts, expected = ([r.token_ids for r in _continue(m, prompts)] for m in (model, reference))
    same = sum(ids == others for ids, others in zip(texts, expected, strict=True))
    return ContinuationAgreement(
        continuations=len(prompts),
        tokens=min(map(len, expected)),
        identical=same / len(prompts),
    )


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
