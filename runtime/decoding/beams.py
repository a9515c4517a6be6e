"""The running beams of a beam search, and its hypotheses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..decoder import Logits, TokenIds
from ..request.options import GenerationOptions
from ..results import FinishReason
from .candidates import Candidate
from .loop import Found, NewToken
from .scoring import Logprobs
from .stopping import Matcher

FIRST_ROOM = 1024  # new tokens that fit into a beam's memory before it grows


class Hypothesis(NamedTuple):
    """A text that has ended."""

    token_ids: list[int]  # new tokens
    score: float
    finish_reason: FinishReason
    logprobs: Logprobs | None

    def found(self, text: int) -> Found:
        """Return the hypothesis as a result; ``text``: the index of the text."""
        return Found(text, self.token_ids, self.finish_reason, self.score, self.logprobs)


class Branch(NamedTuple):
    """A continuation of a beam by one token."""

    beams: Beams
    parent: int
    token: int
    score: float
    matcher: Matcher | None
    known: Logits | None  # the model's log-probabilities, (vocab,), if ``logprobs`` needs them

    def ended(self, reason: FinishReason, length_penalty: float) -> Hypothesis:
        """Return the branch as a hypothesis that ends for ``reason``."""
        token_ids = [*self.beams.new_tokens(self.parent), self.token]
        score = self.score / len(token_ids) ** length_penalty
        return Hypothesis(token_ids, score, reason, self.logprobs())

    def logprobs(self) -> Logprobs | None:
        """Return the log-probabilities of all new tokens, including this one; None if not kept."""
        kept = self.beams.logprobs[self.parent]
        if kept is None or self.known is None:
            return None
        kept = kept.fork()
        kept.record(self.known, self.token)
        return kept


class Beams:
    """The running beams of a prompt, the best first: one at the start, then up to ``num_beams``."""

    def __init__(self, start: Sequence[int], logprobs: int | None, matcher: Matcher | None) -> None:
        self.scores = [0.0]  # sums of log-probabilities
        self.parents: list[int] = [0]  # for each beam, the index of its parent before the last step
        self.last_tokens: list[int] = []
        self.logprobs = [None if logprobs is None else Logprobs(logprobs)]
        self.length = 0  # number of new tokens
        self._matchers = [matcher]
        self._begin = len(start)
        self._ids = np.array([[*start, *[0] * FIRST_ROOM]], np.int64)

    def texts(self) -> Iterator[TokenIds]:
        """Return all ids of each beam, including the start tokens."""
        return iter(self._ids[: len(self.scores), : self._begin + self.length])

    def new_tokens(self, beam: int) -> list[int]:
        """Return the new ids of a beam."""
        ids: list[int] = self._ids[beam, self._begin : self._begin + self.length].tolist()
        return ids

    def branches(self, found: Sequence[Candidate], known: Logits) -> list[Branch]:
        """Return the candidates as branches.

        ``known``: the model's log-probabilities, (beams, vocab).
        """
        keeps = self.logprobs[0] is not None
        branches = []
        for score, beam, token in found:
            matcher = self._matchers[beam]
            branches.append(
                Branch(
                    self,
                    beam,
                    token,
                    score,
                    None if matcher is None else matcher.fork(),
                    known[beam] if keeps else None,
                )
            )
        return branches

    def advance(self, branches: Sequence[Branch]) -> None:
        """Replace the beams by ``branches``, which continue them."""
        parents = [branch.parent for branch in branches]
        at = self._begin + self.length
        room = self._ids.shape[1]
        if at == room or len(branches) > len(self._ids):
            ids = np.empty((max(len(branches), len(self._ids)), room + self.length), np.int64)
            ids[: len(branches), :at] = self._ids[parents, :at]
            self._ids = ids
        elif parents != list(range(len(parents))):
            self._ids[: len(branches), :at] = self._ids[parents, :at]
        self.last_tokens = [branch.token for branch in branches]
        self._ids[: len(branches), at] = self.last_tokens
        self.logprobs = [branch.logprobs() for branch in branches]
        self._matchers = [branch.matcher for branch in branches]
        self.scores = [branch.score for branch in branches]
        self.parents = parents
        self.length += 1

    def since(self, count: int) -> list[list[int]]:
        """Return the new ids of each beam, without the first ``count``."""
        begin, end = self._begin + count, self._begin + self.length
        ids: list[list[int]] = self._ids[: len(self.scores), begin:end].tolist()
        return ids


def best_attainable(score: float, length: int, limit: int, options: GenerationOptions) -> float:
    """Return the best score that a running beam is expected to reach as a hypothesis.

    ``score``: the sum of the log-probabilities of its ``length`` new tokens. The result is an
    estimate, as in Transformers, except with ``early_stopping="never"``.
    """
    if options.early_stopping == "never" and options.length_penalty > 0.0:
        length = limit
    return float(score / length**options.length_penalty)


class CertainPrefix:
    """The certain tokens of a prompt's best text; each is returned once.

    The best text will be the best hypothesis so far, or a continuation of a running beam. Their
    common prefix is therefore certain.
    """

    def __init__(self, text: int) -> None:
        self._text = text
        self._count = 0  # number of returned tokens

    def advance(self, running: Sequence[Beams], best: Hypothesis | None) -> list[NewToken]:
        """Return the tokens that have become certain.

        Once no beam is running, these are the remaining tokens of ``best``, with its finish reason.
        """
        if not running:
            if best is None:
                return []
            tokens = best.token_ids[self._count :]
            reasons = [*[None] * (len(tokens) - 1), best.finish_reason]
            return [NewToken(self._text, *new) for new in zip(tokens, reasons, strict=True)]
        texts = [text for beams in running for text in beams.since(self._count)]
        if best is not None:
            texts.append(best.token_ids[self._count :])
        found = []
        for tokens_at in zip(*texts, strict=False):
            if len(set(tokens_at)) > 1:
                break
            found.append(NewToken(self._text, tokens_at[0], None))
        self._count += len(found)
        return found
