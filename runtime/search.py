"""Choosing the next tokens, and which rows they go on.

A search turns logits into tokens. It does not know how the logits are made or where the cache
lies. A row whose text has ended is not named again, so that it leaves the batch.

A step reads hundreds of megabytes of weights, so that all of this runs with cold caches: what is
done for each token is plain Python on few objects, which touches less memory than numpy calls or
frozen dataclasses do (`benchmarks/loop_overhead.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from edgeseq.runtime.decoder import Logits, TokenIds
from edgeseq.runtime.options import GenerationOptions
from edgeseq.runtime.processors import draw, text_processors
from edgeseq.runtime.results import FinishReason
from edgeseq.runtime.sampling import check_finite
from edgeseq.runtime.stopping import Stopping

FIRST_ROOM = 1024  # new tokens that a row has room for before it grows


class NewToken(NamedTuple):
    """A token that is decided, and whether it ends its text."""

    text: int  # which text: the index of its prompt
    token: int
    finish_reason: FinishReason | None


class Choice(NamedTuple):
    """What a step decided."""

    next_tokens: Sequence[int]  # tokens to decode next, one a row that goes on
    parent_rows: Sequence[int]  # the row of this step that each goes on from
    new_tokens: Sequence[NewToken]  # for the caller


class Search(Protocol):
    """A strategy for one generation."""

    def choose(self, logits: Logits) -> Choice:
        """Decide on ``logits`` (rows, vocabulary), which may be changed in place."""


class RowSearch:
    """One text a prompt, each by itself: greedy search, or sampling."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], options: GenerationOptions
    ) -> None:
        self._options = options
        self._stopping = Stopping(frozenset(options.eos_token_ids))
        self._processors = text_processors(options)
        self._rows = [
            _Row(text, prompt, limit, np.random.default_rng(options.seed))
            for text, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
        ]

    def choose(self, logits: Logits) -> Choice:
        """Decide on one token a row."""
        tokens = self._pick(logits).tolist()
        new_tokens = [
            row.append(token, self._stopping) for row, token in zip(self._rows, tokens, strict=True)
        ]
        live = [i for i, new in enumerate(new_tokens) if new.finish_reason is None]
        if len(live) < len(new_tokens):
            live = close_gaps(live)
            self._rows = [self._rows[i] for i in live]
            tokens = [tokens[i] for i in live]
        return Choice(tokens, live, new_tokens)

    def _pick(self, logits: Logits) -> TokenIds:
        for process in self._processors:
            process(logits, [row.tokens for row in self._rows])
        if self._options.do_sample:
            return draw(logits, self._options, [row.generator for row in self._rows])
        tokens: TokenIds = logits.argmax(axis=1)
        for row, token in enumerate(tokens.tolist()):
            check_finite(float(logits[row, token]))
        return tokens


def close_gaps(live: list[int]) -> list[int]:
    """The rows ``live`` (ascending), each in its place if it can be: the last ones fill the gaps.

    Moving a row copies its cache, so that as few as possible are moved.
    """
    staying = {row for row in live if row < len(live)}
    moving = [row for row in live if row >= len(live)]
    return [row if row in staying else moving.pop() for row in range(len(live))]


class _Row:
    """The ids of a text so far, its prompt's included."""

    def __init__(
        self, text: int, prompt: Sequence[int], limit: int, generator: np.random.Generator
    ) -> None:
        self.generator = generator
        self._text = text
        self._limit = limit
        self._prompt_length = self._length = len(prompt)
        self._ids = np.empty(len(prompt) + min(limit, FIRST_ROOM), np.int64)
        self._ids[: len(prompt)] = prompt
        self._items = self._ids.data

    @property
    def tokens(self) -> TokenIds:
        return self._ids[: self._length]

    def append(self, token: int, stopping: Stopping) -> NewToken:
        if self._length == len(self._items):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._items = self._ids.data
        self._items[self._length] = token
        self._length += 1
        reason = stopping.reason(token, self._length - self._prompt_length, self._limit)
        return NewToken(self._text, token, reason)
