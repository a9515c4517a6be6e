"""The quality of a model on its data: loss, agreement with a reference, and metrics of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..bundle.manifest import Manifest
from ..model import Model
from ..progress import Progress
from .answers import Answers, answer_all, confusion_of, estimates
from .bootstrap import Estimates, estimate
from .data import Data
from .losses import Block, Comparison, Loss, PositionLoss, Stopwatch, compare, measure
from .metrics import Confusion, Statistics


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What a model makes of its data, before anything is estimated from it."""

    loss: Loss
    blocks: Sequence[Block]
    by_position: PositionLoss
    size_bytes: int  # of the predicted text
    seconds: float  # that the model needed for the logits
    answers: Answers | None = None  # None: no examples
    confusion: Confusion | None = None
    comparison: Comparison | None = None  # with a reference that reads the same tokens
    reference_by_position: PositionLoss | None = None

    @property
    def tokens_per_second(self) -> float:
        """The number of predicted tokens in a second, without the reference's time."""
        return self.loss.tokens / self.seconds

    @property
    def bits_per_byte(self) -> float:
        """The loss in bits per byte of the predicted text."""
        return self.loss.bits_per_byte(self.size_bytes)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures with confidence intervals, and differences to a reference."""

    perplexity: Estimates
    kl_divergence: Estimates | None = None  # nats; None without a comparable reference
    top1_agreement: Estimates | None = None
    metrics: dict[str, Estimates] = field(default_factory=dict)


def read_all(
    model: Model,
    data: Data,
    reference: Model | None = None,
    *,
    answering: bool = True,
    max_new_tokens: int | None = None,
) -> Readings:
    """Return what ``model`` makes of ``data``, beside a reference that reads the same tokens."""
    windows, blocks, watch = data.passages.windows, list[Block](), Stopwatch()
    own, others = PositionLoss(), PositionLoss()
    comparison = None
    with Progress("evaluating", data.passages.tokens, unit="tokens") as progress:
        if reference is None:
            loss = measure(model.new_decoder, windows, progress, own, blocks, watch)
        else:
            decoders = reference.new_decoder, model.new_decoder
            comparison = compare(*decoders, windows, progress, (others, own), blocks, watch)
            loss = comparison.candidate
    answers = None
    if data.examples and answering:
        with Progress("answering", len(data.examples), unit="texts") as progress:
            answers = answer_all(model, data, progress, max_new_tokens)
    return Readings(
        loss=loss,
        blocks=blocks,
        by_position=own,
        size_bytes=data.passages.size_bytes,
        seconds=watch.seconds,
        answers=answers,
        confusion=None if answers is None else confusion_of(answers.texts, data),
        comparison=comparison,
        reference_by_position=None if reference is None else others,
    )


def quality(
    readings: Readings, data: Data, metrics: Sequence[str], reference: Answers | None = None
) -> Quality:
    """Return the figures of ``readings``.

    Perplexities are compared if the readings have a comparison, and metrics if ``reference`` has
    the reference's answers. The bootstrap samples examples, or blocks of at most 128 tokens of
    a text.
    """
    compared = readings.comparison is not None
    sums = _sums(readings.blocks, by_window=bool(data.examples))
    tokens = sums[:, :1]
    others = np.hstack([sums[:, 2:3], tokens]) if compared else None
    answers = readings.answers
    return Quality(
        perplexity=estimate(np.hstack([sums[:, 1:2], tokens]), _perplexity, others),
        kl_divergence=_mean(sums[:, 3:4], tokens) if compared else None,
        top1_agreement=_mean(sums[:, 4:5], tokens) if compared else None,
        metrics={}
        if answers is None
        else estimates(
            answers.texts, data.examples, metrics, None if reference is None else reference.texts
        ),
    )


def _sums(blocks: Sequence[Block], *, by_window: bool) -> Statistics:
    """Return tokens, losses of candidate and reference, divergence and agreement; (units, 5)."""
    rows = np.array(
        [[b.window, b.tokens, b.nats, b.reference_nats, b.divergence, b.agreeing] for b in blocks]
    )
    if not by_window:
        return rows[:, 1:]
    starts = np.flatnonzero(np.diff(rows[:, 0], prepend=-1))
    sums: Statistics = np.add.reduceat(rows[:, 1:], starts)
    return sums


def _mean(values: Statistics, tokens: Statistics) -> Estimates:
    # A divergence is below 0 only by rounding.
    return estimate(np.hstack([values, tokens]), lambda sums: max(float(sums[0] / sums[1]), 0.0))


def _perplexity(sums: Statistics) -> float:
    return Loss(tokens=int(sums[1]), nats=float(sums[0])).perplexity


def difference_of(manifest: Manifest, reference: Manifest) -> str | None:
    """Return in what a reference reads other tokens than the bundle; None if in nothing."""

    def traits(manifest: Manifest) -> dict[str, object]:
        tokenizer, sizes = manifest.tokenizer, manifest.dimensions
        digest = None if tokenizer.file is None else manifest.files[tokenizer.file].sha256
        return {
            "kind of model": manifest.kind,
            "vocabulary size": sizes.vocabulary,
            "number of positions": sizes.max_positions,
            "tokenizer": (digest, tokenizer.sentinels),
        }

    own, other = traits(manifest), traits(reference)
    return next((name for name, value in own.items() if value != other[name]), None)
