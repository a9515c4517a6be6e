"""Changes to the logits of the next token, each a function that works in place.

`logits: (rows, vocab) float32` throughout; an entry that is filtered out becomes -inf. `tokens`
holds, for each row, all its ids so far, the prompt's included. Values are those of the processors
in `transformers.generation.logits_process` (4.57.6). Parameters are taken as valid: the options
check them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def apply_temperature(logits: Logits, temperature: float) -> None:
    """Divide by `temperature` > 0: below 1 sharpens, above 1 flattens.

    Source: `TemperatureLogitsWarper`.
    """
    logits /= temperature


def keep_top_k(logits: Logits, top_k: int) -> None:
    """Keep the `top_k` >= 1 highest of each row and whatever equals the lowest of them.

    Source: `TopKLogitsWarper`.
    """
    vocab = logits.shape[1]
    if top_k >= vocab:
        return
    lowest_kept = np.partition(logits, vocab - top_k, axis=1)[:, vocab - top_k, np.newaxis]
    logits[logits < lowest_kept] = -np.inf


def keep_top_p(logits: Logits, top_p: float) -> None:
    """Keep the fewest most probable tokens of each row that reach probability `top_p`.

    `top_p` is in [0, 1]; at least one token is kept. Of equals at the border the first go first.
    A row without probabilities is left alone. Source: `TopPLogitsWarper`, after
    "The Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751.
    """
    # float32 as in Transformers, so that sums which meet the border exactly fall on its side.
    may_go = np.float32(1.0 - top_p)
    for row in logits:
        peak = row.max()
        if not np.isfinite(peak):  # no probabilities; the choice of a token will say so
            continue
        probabilities = np.exp(row - peak)
        probabilities /= np.float32(probabilities.sum(dtype=np.float64))
        # All tokens below this add up to half of `may_go` at most: they go without being sorted.
        is_candidate = probabilities > may_go / (2 * row.size)
        candidates = np.flatnonzero(is_candidate)
        candidates = candidates[np.argsort(row[candidates], kind="stable")]
        below = probabilities[~is_candidate].sum(dtype=np.float64)
        cumulative = below + probabilities[candidates].cumsum(dtype=np.float64)
        goes = cumulative.astype(np.float32) <= may_go
        goes[-1] = False
        row[~is_candidate] = -np.inf
        row[candidates[goes]] = -np.inf


def penalize_repetition(logits: Logits, tokens: Sequence[Ids], penalty: float) -> None:
    """Make the ids in `tokens` less likely: divide by `penalty` > 0, or multiply if negative.

    A penalty below 1 makes them more likely. An id counts once, however often it occurs.
    Source: `RepetitionPenaltyLogitsProcessor`, after CTRL, https://arxiv.org/abs/1909.05858.
    """
    for row, ids in zip(logits, tokens, strict=True):
        seen = row[ids]
        row[ids] = np.where(seen < 0, seen * penalty, seen / penalty)


def block_repeated_ngrams(logits: Logits, tokens: Sequence[Ids], size: int) -> None:
    """Filter out each id that would complete an n-gram of `size` >= 1 ids a second time.

    Source: `NoRepeatNGramLogitsProcessor`.
    """
    for row, ids in zip(logits, tokens, strict=True):
        if ids.size < size:
            continue
        ngrams = np.lib.stride_tricks.sliding_window_view(ids, size)
        last_ids = ids[ids.size - (size - 1) :]
        is_repeated = (ngrams[:, :-1] == last_ids).all(axis=1)
        row[ngrams[is_repeated, -1]] = -np.inf
