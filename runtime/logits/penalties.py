"""Penalties: logits processors that depend on the ids of the text so far.

``logits: (rows, vocab) float32`` are changed in place; the logit of a forbidden id becomes -inf.
``tokens`` holds all ids of each row so far, including the prompt. ``sources`` holds the source of
each row, or in a decoder-only model the prompt. Results equal the results of the processors in
``transformers.generation.logits_process`` (4.57.6), which has no presence penalty. Parameters are
not checked here: the options check them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..decoder import Logits, TokenIds
from .masks import Ids

HIGHEST = float(np.finfo(np.float32).max)


@np.errstate(over="ignore")  # np.where computes both sides
def penalize_repetition(logits: Logits, tokens: Sequence[TokenIds], penalty: float) -> None:
    """Lower the logits of the ids in ``tokens``: divide by ``penalty``, or multiply negative ones.

    ``penalty`` is above 0; below 1 it raises the logits. An id counts once, even if it occurs
    several times. Source: ``RepetitionPenaltyLogitsProcessor``, after CTRL,
    https://arxiv.org/abs/1909.05858.
    """
    for row, ids in zip(logits, tokens, strict=True):
        seen = row[ids]
        row[ids] = np.where(seen < 0, seen * penalty, seen / penalty)


def penalize_presence(
    logits: Logits, new_tokens: Sequence[TokenIds], presence: float, frequency: float
) -> None:
    """Subtract ``presence`` from the logit of each id in ``new_tokens``, and ``frequency`` for each
    of its occurrences.

    ``new_tokens`` holds the new ids of each row, without the prompt. Negative penalties raise the
    logits. Source: OpenAI's API, "Frequency and presence penalties".
    """
    for row, ids in zip(logits, new_tokens, strict=True):
        seen, counts = np.unique(ids, return_counts=True)
        row[seen] -= (presence + frequency * counts).astype(np.float32)


def reward_sources(logits: Logits, sources: Sequence[TokenIds], penalty: float) -> None:
    """Raise the logits of the ids in ``sources``: multiply by ``penalty``, or divide negative ones.

    ``penalty`` is above 0; below 1 it lowers the logits. Source:
    ``EncoderRepetitionPenaltyLogitsProcessor``.
    """
    known = [source[source < logits.shape[1]] for source in sources]  # the encoder may know more
    penalize_repetition(logits, known, 1.0 / penalty)


def block_repeated_ngrams(logits: Logits, tokens: Sequence[TokenIds], size: int) -> None:
    """Forbid each id that would complete an n-gram of ``size`` >= 1 ids a second time.

    Source: ``NoRepeatNGramLogitsProcessor``.
    """
    block_source_ngrams(logits, tokens, tokens, size)


def block_source_ngrams(
    logits: Logits, tokens: Sequence[TokenIds], sources: Sequence[TokenIds], size: int
) -> None:
    """Forbid each id that would complete an n-gram of ``size`` >= 1 ids of the row's source.

    Source: ``EncoderNoRepeatNGramLogitsProcessor``.
    """
    for row, ids, source in zip(logits, tokens, sources, strict=True):
        if source.size < size or ids.size < size - 1:
            continue
        ngrams = np.lib.stride_tricks.sliding_window_view(source, size)
        last_ids = ids[ids.size - (size - 1) :]
        is_repeated = (ngrams[:, :-1] == last_ids).all(axis=1)
        blocked = ngrams[is_repeated, -1]
        row[blocked[blocked < row.size]] = -np.inf  # an encoder may have a larger vocabulary


class SequenceBias:
    """A processor that adds a bias to the logit of each id that would complete a given sequence.

    Biases of sequences with the same last id add up; -inf forbids completing a sequence. A sequence
    of several ids counts only in a text that is at least as long: a sequence of two ids does not
    count after a prompt of one id. Source: ``SequenceBiasLogitsProcessor``, and with -inf
    ``NoBadWordsLogitsProcessor``.
    """

    def __init__(self, biases: Sequence[tuple[tuple[int, ...], float]]) -> None:
        """Take sequences of ids and their biases; of equal sequences the last one counts."""
        self._alone: dict[int, float] = {}
        self._after: dict[tuple[int, ...], list[tuple[int, float]]] = {}
        for (*prefix, last_id), bias in dict(biases).items():
            if prefix:
                self._after.setdefault(tuple(prefix), []).append((last_id, bias))
            else:
                self._alone[last_id] = bias
        self._prefix_sizes = sorted({len(prefix) for prefix in self._after})
        self._alone_ids = np.array(list(self._alone), dtype=np.intp)
        self._alone_biases = np.array(list(self._alone.values()), dtype=np.float64)

    @np.errstate(over="ignore", invalid="ignore")  # as in torch: overflow is inf, inf - inf NaN
    def __call__(self, logits: Logits, tokens: Sequence[TokenIds]) -> None:
        """Add the biases to ``logits`` in place."""
        for row, ids in zip(logits, tokens, strict=True):
            sums = self._sums_after(ids)
            sum_ids = np.array(list(sums), dtype=np.intp)
            summed = row[sum_ids] + np.array(list(sums.values()), dtype=np.float64)
            row[self._alone_ids] += self._alone_biases
            row[sum_ids] = summed

    def _sums_after(self, ids: TokenIds) -> dict[int, float]:
        """Return the total bias of each id that completes a sequence of two or more ids."""
        sums: dict[int, float] = {}
        for size in self._prefix_sizes:
            if size >= ids.size:
                break
            for last_id, bias in self._after.get(tuple(ids[-size:].tolist()), ()):
                sums[last_id] = sums.get(last_id, self._alone.get(last_id, 0.0)) + bias
        return sums


def decay_length(
    logits: Logits,
    tokens: Sequence[TokenIds],
    prompt_lengths: Sequence[int],
    start: int,
    factor: float,
    eos_token_ids: Ids,
) -> None:
    """Raise the logits of ``eos_token_ids`` with each new id of a row after the first ``start``.

    With n ids more than ``start`` after the prompt, a logit x becomes
    x + abs(x) * (``factor``**n - 1). Source: ``ExponentialDecayLengthPenalty``, which gives NaN or
    fails in two cases. Here a forbidden id stays forbidden, and a logit that is too large becomes
    the highest float32.
    """
    columns = np.asarray(eos_token_ids, dtype=np.intp)
    for row, ids, prompt_length in zip(logits, tokens, prompt_lengths, strict=True):
        late = ids.size - prompt_length - start
        if late <= 0:
            continue
        with np.errstate(over="ignore"):
            growth = min(float(np.float64(factor) ** late), HIGHEST)
        before = row[columns].astype(np.float64)
        finite = np.isfinite(before)
        raised = before[finite] + np.abs(before[finite]) * (growth - 1.0)
        row[columns[finite]] = raised.clip(-HIGHEST, HIGHEST)
