"""How probable a model finds given tokens: the windows that it reads, and the logits in them.

A window is read in chunks, so that the logits of a long text are never in memory together. It knows
token ids and logits, no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..decoder import Logits, NewDecoder, TokenIds
from ..errors import OptionError
from ..logits.softmax import log_softmax
from ..results import TopLogprobs

CHUNK = 128  # tokens that are read at once


@dataclass(frozen=True)
class Window:
    """A stretch of token ids that a decoder reads, and which of them it is to predict."""

    source: Sequence[int]  # what an encoder reads; empty for a decoder of its own
    tokens: Sequence[int]  # what the decoder reads, all but the last; the first is never predicted
    first: int  # index in `tokens` of the first that is predicted, at least 1

    @property
    def predicted(self) -> int:
        """How many tokens are predicted: all from ``first`` on."""
        return max(len(self.tokens) - self.first, 0)


def text_windows(ids: Sequence[int], context: int, stride: int) -> list[Window]:
    """Windows over a text in which each token but its first is predicted once.

    The decoder reads at most ``context`` tokens of each. The first window predicts ``context``
    tokens; each later one starts ``stride`` tokens after the one before it and predicts the
    ``stride`` that follow what is predicted already, so that at least ``context - stride + 1``
    tokens stand before each of them. Fewer than two ids give no window. Raises ``OptionError``
    unless ``1 <= stride <= context``.
    """
    if context < 1:
        raise OptionError(f"context is {context}; it must be at least 1.")
    if not 1 <= stride <= context:
        raise OptionError(f"stride is {stride}; it must be from 1 to the context of {context}.")
    if len(ids) < 2:
        return []
    beyond_first = max(len(ids) - 1 - context, 0)  # tokens that the first window leaves over
    return [
        Window((), ids[start : start + context + 1], 1 if start == 0 else context - stride + 1)
        for start in range(0, beyond_first + stride, stride)
    ]


def pair_window(source: Sequence[int], target: Sequence[int], start: Sequence[int]) -> Window:
    """The window of a ``target`` given its ``source``; the decoder reads ``start`` first."""
    return Window(source, [*start, *target], len(start))


def window_logits(new_decoder: NewDecoder, window: Window) -> Iterator[tuple[TokenIds, Logits]]:
    """Blocks of tokens that are predicted, (k,), and the logits that predict them, (k, vocabulary).

    The logits are the decoder's own, and gone when the next block is asked for.
    """
    read = window.tokens[:-1]
    if not window.predicted:
        return
    decoder = new_decoder([window.source if len(window.source) else read], len(read))
    begin = 0
    for end in _chunk_ends(len(read)):
        logits = decoder.read(read[begin:end])
        skipped = max(window.first - 1 - begin, 0)
        if skipped < end - begin:
            targets = window.tokens[begin + skipped + 1 : end + 1]
            yield np.array(targets, np.int64), logits[skipped:]
        begin = end


def _chunk_ends(count: int) -> list[int]:
    """Where the chunks of ``count`` tokens end; a single one left over joins the chunk before it.

    One token alone is computed in another way than several, and may differ in the last bit.
    """
    ends = [*range(CHUNK, count, CHUNK), count]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1:
        del ends[-2]
    return ends


class Logprobs:
    """Kept token by token; ``count`` others each."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.of_tokens: list[float] = []
        self.of_others: list[TopLogprobs] = []

    def record(self, logits: Logits, token: int) -> None:
        """Take the next token, chosen where the model gave ``logits`` (vocabulary,)."""
        known = log_softmax(logits)
        self.of_tokens.append(float(known[token]))
        count = min(self._count, known.size)
        # Of as many as there are, the most probable ones are the last ones.
        top = np.argpartition(known, max(known.size - count - 1, 0))[known.size - count :]
        ordered = sorted((-float(known[i]), int(i)) for i in top)
        self.of_others.append(tuple((i, -negative) for negative, i in ordered))

    def fork(self) -> Logprobs:
        """An independent copy."""
        other = Logprobs(self._count)
        other.of_tokens = list(self.of_tokens)
        other.of_others = list(self.of_others)
        return other
