"""Log-probabilities of the tokens of given texts, read in windows, and of generated texts.

A window is read in chunks, so that the logits of a long text are never in memory together. This
module knows token ids and logits, but no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..decoder import Logits, NewDecoder, TokenIds, chunk_ends
from ..errors import OptionError
from ..logits.softmax import log_softmax
from ..results import TopLogprobs

CHUNK = 128  # tokens that are read at once


@dataclass(frozen=True)
class Window:
    """The token ids that a decoder reads, and the part of them that it predicts."""

    source: Sequence[int]  # token ids for the encoder; empty without an encoder
    tokens: Sequence[int]  # the decoder reads all but the last; the first is never predicted
    first: int  # index in `tokens` of the first predicted token, at least 1

    @property
    def predicted(self) -> int:
        """The number of predicted tokens: all from ``first`` on."""
        return max(len(self.tokens) - self.first, 0)


def text_windows(ids: Sequence[int], context: int, stride: int) -> list[Window]:
    """Return windows over a text that predict each token but the first exactly once.

    The decoder reads at most ``context`` tokens of each window. The first window predicts
    ``context`` tokens. Each later window starts ``stride`` tokens after the previous one and
    predicts the next ``stride`` tokens, each of them after at least ``context - stride + 1`` tokens
    of the window. Fewer than two ids give no window. Raises ``OptionError`` unless
    ``1 <= stride <= context``.
    """
    if context < 1:
        raise OptionError(f"context is {context}; it must be at least 1.")
    if not 1 <= stride <= context:
        raise OptionError(f"stride is {stride}; it must be from 1 to the context of {context}.")
    if len(ids) < 2:
        return []
    beyond_first = max(len(ids) - 1 - context, 0)  # tokens after the first window
    return [
        Window((), ids[start : start + context + 1], 1 if start == 0 else context - stride + 1)
        for start in range(0, beyond_first + stride, stride)
    ]


def pair_window(source: Sequence[int], target: Sequence[int], start: Sequence[int]) -> Window:
    """Return the window of a ``target`` after its ``source``; the decoder reads ``start`` first."""
    return Window(source, [*start, *target], len(start))


def window_logits(new_decoder: NewDecoder, window: Window) -> Iterator[tuple[TokenIds, Logits]]:
    """Yield blocks of predicted tokens, (k,), with the logits that predict them, (k, vocabulary).

    The logits belong to the decoder, and the next block overwrites them.
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

    They are the model's own, without any logits processor, as ``Model.score`` returns them.
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
