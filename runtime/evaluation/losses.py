"""The loss of a model on given windows, alone or compared with a reference."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..decoder import Logits, NewDecoder, TokenIds
from ..decoding.scoring import window_logits
from ..logits.softmax import log_probabilities, log_softmax
from ..request.passages import Window

Logged = tuple[TokenIds, Logits]  # targets and the logits that predict them
ReportProgress = Callable[[int], object]  # called with the number of newly predicted tokens


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of some predicted tokens."""

    tokens: int  # number of predicted tokens
    nats: float  # sum of their negative log-probabilities

    @property
    def cross_entropy(self) -> float:
        """The loss in nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """The perplexity, exp(cross-entropy); infinite if it is too large for a float."""
        try:
            return math.exp(self.cross_entropy)
        except OverflowError:
            return math.inf

    def bits_per_byte(self, size_bytes: int) -> float:
        """Return the loss in bits per byte; ``size_bytes``: the size of the predicted text."""
        return self.nats / math.log(2) / size_bytes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The losses of a candidate and of a reference on the same tokens."""

    reference: Loss
    candidate: Loss
    kl_divergence: float  # nats, mean over positions of KL(reference || candidate)
    top1_agreement: float  # share of positions with the same most probable token

    @property
    def perplexity_rise(self) -> float:
        """The rise of the candidate's perplexity, as a share of the reference's perplexity.

        It is correct even if the perplexities are too large for a float. It is infinite if the rise
        itself is too large.
        """
        try:
            return math.expm1(self.candidate.cross_entropy - self.reference.cross_entropy)
        except OverflowError:
            return math.inf


@dataclass(frozen=True, kw_only=True)
class Block:
    """Sums over some consecutive tokens of a window; without a reference, its sums are 0."""

    window: int  # index of the window
    tokens: int
    nats: float  # loss of the candidate
    reference_nats: float = 0.0
    divergence: float = 0.0  # nats, sum of KL(reference || candidate)
    agreeing: int = 0  # positions with the same most probable token


class Stopwatch:
    """The time that a model needs for its logits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, blocks: Iterator[Logged]) -> Iterator[Logged]:
        """Yield from ``blocks``; the time until each of them counts."""
        while True:
            started = time.perf_counter()
            block = next(blocks, None)
            self.seconds += time.perf_counter() - started
            if block is None:
                return
            yield block


def measure(
    new_decoder: NewDecoder,
    windows: Iterable[Window],
    progress: ReportProgress = lambda tokens: None,
    by_position: PositionLoss | None = None,
    by_block: list[Block] | None = None,
    watch: Stopwatch | None = None,
) -> Loss:
    """Return the loss of the tokens that ``windows`` predict.

    ``by_position``: the loss of each token is added to it. ``by_block``: the sums of each block are
    appended. ``watch``: measures the model. Raises ``BundleError`` if a row's highest logit is not
    finite.
    """
    watch = watch or Stopwatch()
    tokens, nats = 0, 0.0
    for number, window in enumerate(windows):
        position = window.first
        for targets, logits in watch.timed(window_logits(new_decoder, window)):
            found = log_probabilities(logits, targets)
            lost = -float(found.sum())
            nats += lost
            tokens += len(targets)
            if by_block is not None:
                by_block.append(Block(window=number, tokens=len(targets), nats=lost))
            if by_position is not None:
                by_position.add(position, found)
            position += len(targets)
            progress(len(targets))
    return Loss(tokens=tokens, nats=nats)


def compare(
    reference: NewDecoder,
    candidate: NewDecoder,
    windows: Iterable[Window],
    progress: ReportProgress = lambda tokens: None,
    by_position: tuple[PositionLoss, PositionLoss] | None = None,
    by_block: list[Block] | None = None,
    watch: Stopwatch | None = None,
) -> Comparison:
    """Return the losses of two models on the tokens that ``windows`` predict, at least one token.

    The models read the windows in alternating order, block by block. ``by_position``: the losses of
    each token by the reference and by the candidate are added to the two. ``by_block``: the sums of
    each block are appended. ``watch``: measures the candidate. Raises ``BundleError`` if a row's
    highest logit is not finite.
    """
    watch = watch or Stopwatch()
    sums, tokens = _Sums(), 0
    for number, window in enumerate(windows):
        position = window.first
        blocks = zip(
            window_logits(reference, window),
            watch.timed(window_logits(candidate, window)),
            strict=True,
        )
        for (targets, expected), (_, found) in blocks:
            of_block = _Sums()
            costs = of_block.add(targets, expected, found)
            sums.merge(of_block)
            if by_block is not None:
                by_block.append(of_block.block(number, len(targets)))
            for losses, values in zip(by_position or (), costs, strict=False):
                losses.add(position, values)
            position += len(targets)
            tokens += len(targets)
            progress(len(targets))
    return Comparison(
        reference=Loss(tokens=tokens, nats=sums.reference_nats),
        candidate=Loss(tokens=tokens, nats=sums.candidate_nats),
        kl_divergence=max(sums.divergence / tokens, 0.0),  # below 0 only by rounding
        top1_agreement=sums.agreeing / tokens,
    )


@dataclass
class _Sums:
    """The sums over all positions."""

    reference_nats: float = 0.0
    candidate_nats: float = 0.0
    divergence: float = 0.0
    agreeing: int = 0

    def merge(self, other: _Sums) -> None:
        """Add the sums of other positions."""
        self.reference_nats += other.reference_nats
        self.candidate_nats += other.candidate_nats
        self.divergence += other.divergence
        self.agreeing += other.agreeing

    def block(self, window: int, tokens: int) -> Block:
        """Return the sums as those of a block."""
        return Block(
            window=window,
            tokens=tokens,
            nats=self.candidate_nats,
            reference_nats=self.reference_nats,
            divergence=self.divergence,
            agreeing=self.agreeing,
        )

    def add(
        self, targets: TokenIds, expected: Logits, found: Logits
    ) -> tuple[list[float], list[float]]:
        """Add ``targets``, (k,), with the logits of both models, (k, vocabulary) each.

        Returns the log-probabilities of the targets by the reference and by the candidate.
        """
        known: tuple[list[float], list[float]] = ([], [])
        self.agreeing += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
        for target, expected_row, found_row in zip(targets, expected, found, strict=True):
            p, q = log_softmax(expected_row), log_softmax(found_row)
            self.divergence += float(np.exp(p) @ (p - q))
            known[0].append(float(p[target]))
            known[1].append(float(q[target]))
        # Summed as `measure` does it, so that both find exactly the same loss.
        self.reference_nats -= float(np.sum(known[0]))
        self.candidate_nats -= float(np.sum(known[1]))
        return known


@dataclass(frozen=True)
class Bin:
    """The loss of the tokens at the positions ``first`` to ``last``."""

    first: int
    last: int
    tokens: int
    cross_entropy: float  # nats per token


class PositionLoss:
    """The loss by position, in bins that double: 1, 2 to 3, 4 to 7, 8 to 15 and so on.

    The position of a token is the number of tokens before it.
    """

    def __init__(self) -> None:
        self._sums: dict[int, tuple[int, float]] = {}

    def add(self, first: int, log_probabilities: ArrayLike) -> None:
        """Add consecutive tokens, from position ``first`` on.

        ``log_probabilities``: natural log-probabilities of the tokens, (k,).
        """
        values = np.asarray(log_probabilities, np.float64)
        bins = np.frexp(np.arange(first, first + len(values)))[1] - 1  # exact for integers
        for number in np.unique(bins).tolist():
            tokens, nats = self._sums.get(number, (0, 0.0))
            found = values[bins == number]
            self._sums[number] = tokens + len(found), nats - float(found.sum())

    def bins(self) -> list[Bin]:
        """Return the bins that have tokens, by position."""
        return [
            Bin(2**number, 2 ** (number + 1) - 1, tokens, nats / tokens)
            for number, (tokens, nats) in sorted(self._sums.items())
        ]
