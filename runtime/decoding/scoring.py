"""Log-probabilities of the tokens of given texts, read in windows, and of generated texts.

A window is read in chunks, so that the logits of a long text are never in memory together. This
module handles token ids and logits, but not text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..decoder import Logits, NewDecoder, TokenIds, chunk_ends
from ..logits.softmax import log_softmax
from ..results import TopLogprobs

if TYPE_CHECKING:
    from ..request.passages import Window

CHUNK = 128  # tokens that are read at once


def window_logits(new_decoder: NewDecoder, window: Window) -> Iterator[tuple[TokenIds, Logits]]:
    """Yield blocks of predicted tokens, (k,), with the logits that predict them, (k, vocabulary).

    The logits belong to the decoder, which overwrites them in the next block.
    """
    read = window.tokens[:-1]
    if not window.predicted:
        return
    decoder = new_decoder([window.source if len(window.source) else read], len(read))
    begin = 0
    for end in chunk_ends(len(read), CHUNK, CHUNK):
        logits = decoder.read(read[begin:end])
        skipped = max(window.first - 1 - begin, 0)
        if skipped < end - begin:
            targets = window.tokens[begin + skipped + 1 : end + 1]
            yield np.array(targets, np.int64), logits[skipped:]
        begin = end


class Logprobs:
    """The log-probabilities of a generated text's tokens, and of ``count`` alternatives to each.

    Logits processors do not change them: they are the same as in ``Model.score``.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.of_tokens: list[float] = []
        self.of_others: list[TopLogprobs] = []

    def record(self, logits: Logits, token: int) -> None:
        """Add the next token, chosen by the model's ``logits`` (vocabulary,)."""
        known = log_softmax(logits)
        self.of_tokens.append(float(known[token]))
        count = min(self._count, known.size)
        # After the partition, the ``count`` most probable tokens are the last ones.
        top = np.argpartition(known, max(known.size - count - 1, 0))[known.size - count :]
        ordered = sorted((-float(known[i]), int(i)) for i in top)
        self.of_others.append(tuple((i, -negative) for negative, i in ordered))

    def fork(self) -> Logprobs:
        """Return an independent copy."""
        other = Logprobs(self._count)
        other.of_tokens = list(self.of_tokens)
        other.of_others = list(self.of_others)
        return other
