"""Greedy search and sampling: one independent row for each text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..decoder import Logits, TokenIds
from ..logits.processors import Processor, Prompt, Rows
from ..logits.softmax import check_highest
from ..request.options import GenerationOptions
from ..results import FinishReason
from .loop import Found, NewToken, StepResult
from .scoring import Logprobs
from .stopping import Stopping

FIRST_ROOM = 1024  # new tokens that fit into a row's memory before it grows


class RowSearch:
    """Greedy search or sampling of ``num_return_sequences`` texts for each prompt.

    The texts of a prompt share one row in the first step. After it, each text has a row.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions,
        processors: Sequence[Processor],
        stopping: Stopping,
    ) -> None:
        self._options = options
        self._stopping = stopping
        self._processors = processors
        self._count = options.num_return_sequences
        self._texts = [
            SequenceState(index, index * self._count + number, prompt, options, stopping, number)
            for index, prompt in enumerate(prompts)
            for number in range(self._count)
        ]
        self._rows = self._texts[:: self._count]  # in the first step, one row for each prompt

    def choose(self, logits: Logits, interrupt: FinishReason | None = None) -> StepResult:
        """Choose one token for each row."""
        raw = None if self._options.logprobs is None else logits.copy()
        if self._processors:
            rows = Rows([row.tokens for row in self._rows], [row.prompt for row in self._rows])
            for process in self._processors:
                process(logits, rows)
        parents = list(range(len(self._rows)))
        if self._count > 1 and not self._texts[0].new_tokens:
            parents = [row for row in parents for _ in range(self._count)]
            self._rows, logits = self._texts, logits[parents]
        tokens = self._pick(logits).tolist()
        if raw is not None:
            for row, parent, token in zip(self._rows, parents, tokens, strict=True):
                row.record(raw[parent], token)
        new_tokens = [
            row.append(token, self._stopping, interrupt)
            for row, token in zip(self._rows, tokens, strict=True)
        ]
        live = [i for i, new in enumerate(new_tokens) if new.finish_reason is None]
        if len(live) < len(new_tokens):
            self._rows = [self._rows[i] for i in live]
            tokens = [tokens[i] for i in live]
            parents = [parents[i] for i in live]
        return StepResult(tokens, parents, new_tokens)

    def results(self) -> Sequence[Found]:
        """Return the texts in the order of their prompts."""
        return [text.found() for text in self._texts]

    def _pick(self, logits: Logits) -> TokenIds:
        if self._options.do_sample:
            return sample(logits, [row.generator for row in self._rows])
        return most_probable(logits)


def most_probable(logits: Logits) -> TokenIds:
    """Return the token with the highest logit of each row, (rows,); the lowest id of equals.

    Raises ``DeadEndError`` if a row holds only -inf, ``BundleError`` for NaN and +inf.
    """
    tokens: TokenIds = logits.argmax(axis=1)
    for row, token in enumerate(tokens.tolist()):
        check_highest(float(logits[row, token]))
    return tokens


class SequenceState:
    """The ids of one text so far, including the start tokens."""

    def __init__(
        self,
        index: int,
        text: int,
        prompt: Prompt,
        options: GenerationOptions,
        stopping: Stopping,
        number: int = 0,
    ) -> None:
        self.prompt = index
        # The first text of a prompt does not depend on num_return_sequences.
        seed = [options.seed, number] if number and options.seed is not None else options.seed
        self._seed = seed
        self._text = text
        self._limit = prompt.limit
        self._matcher = stopping.matcher(index)
        self._reason: FinishReason | None = None
        self._logprobs = None if options.logprobs is None else Logprobs(options.logprobs)
        self._begin = self._length = len(prompt.start)
        self._ids = np.empty(self._begin + min(prompt.limit, FIRST_ROOM), np.int64)
        self._ids[: self._begin] = prompt.start
        self._items = self._ids.data

    @cached_property
    def generator(self) -> np.random.Generator:
        """The generator for sampling, created late: greedy search needs no ``numpy.random``."""
        return np.random.default_rng(self._seed)

    @property
    def tokens(self) -> TokenIds:
        """All ids so far."""
        return self._ids[: self._length]

    @property
    def new_tokens(self) -> int:
        """The number of new tokens."""
        return self._length - self._begin

    @property
    def limit(self) -> int:
        """The limit of new tokens."""
        return self._limit

    def record(self, logits: Logits, token: int) -> None:
        """Record the log-probability of the chosen ``token`` by the model's own ``logits``."""
        if self._logprobs is not None:
            self._logprobs.record(logits, token)

    def append(
        self, token: int, stopping: Stopping, interrupt: FinishReason | None = None
    ) -> NewToken:
        """Append ``token``; return it, with the finish reason if it ends the text."""
        if self._length == len(self._items):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._items = self._ids.data
        self._items[self._length] = token
        self._length += 1
        self._reason = stopping.reason(
            token, self._length - self._begin, self._limit, self._matcher, interrupt
        )
        return NewToken(self._text, token, self._reason)

    def found(self) -> Found:
        """Return the text as a result; a text without a finish reason was cancelled."""
        token_ids = self.tokens[self._begin :].tolist()
        return Found(self._text, token_ids, self._reason or "cancelled", None, self._logprobs)


def sample(logits: Logits, generators: Sequence[np.random.Generator]) -> TokenIds:
    """Return one token for each row, sampled from softmax(logits), (rows,) int64.

    ``logits: (rows, vocab) float32``, where -inf is probability 0. Each row takes exactly one
    uniform number from its own generator, so that it does not depend on other rows. Sums are
    float64. Method: inverse transform sampling.

    Raises ``BundleError`` if a row holds NaN or +inf, ``OptionError`` if it holds only -inf.
    """
    tokens = [_draw(row, generator) for row, generator in zip(logits, generators, strict=True)]
    return np.array(tokens, dtype=np.int64)


def _draw(row: Logits, generator: np.random.Generator) -> int:
    """Return one token, sampled from ``row: (vocab,) float32``."""
    kept = np.flatnonzero(row != -np.inf)
    logits = row[kept].astype(np.float64)
    peak = logits.max(initial=-np.inf)
    check_highest(float(peak))
    cumulative = np.exp(logits - peak).cumsum()
    # The first sum above the point always belongs to a token with a probability above 0. The
    # product may be rounded up to the total, and no sum is above the total.
    total = cumulative[-1]
    point = min(generator.random() * total, np.nextafter(total, 0.0))
    return int(kept[np.searchsorted(cumulative, point, side="right")])
