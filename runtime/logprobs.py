"""Log-probabilities of the tokens of a text, and of what else might have come.

They are the model's own, from before any processor: those that ``Model.score`` gives the same text.
"""

from __future__ import annotations

import numpy as np

from edgeseq.runtime.decoder import Logits
from edgeseq.runtime.results import TopLogprobs
from edgeseq.runtime.scoring import log_softmax


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
