"""The report of ``edgeseq eval``, as numbers and as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..model import Model
from ..request.passages import Passages
from .answers import metrics_of
from .bootstrap import Estimate
from .continuations import agreement
from .data import Data, data_of
from .losses import Loss
from .metrics import METRICS
from .quality import Quality, Readings, quality, read_all


def measure_report(model: Model, reference: Model | None, passages: Passages) -> dict[str, Any]:
    """Measure the model on passages; return the figures that ``--json`` prints."""
    return measure_data(model, reference, data_of(passages))[0]


def measure_data(
    model: Model,
    reference: Model | None,
    data: Data,
    metrics: Sequence[str] = (),
    max_new_tokens: int | None = None,
) -> tuple[dict[str, Any], Readings]:
    """Return the figures of ``measure_report``, and what they follow from.

    ``metrics``: names of metrics; none: those that fit the data.
    """
    readings = read_all(model, data, reference, max_new_tokens=max_new_tokens)
    found = quality(readings, data, metrics or metrics_of(data))
    passages = data.passages
    report = loss_figures(readings.loss, passages)
    if readings.answers is not None:
        report |= {"pairs": len(data.examples)}
        report |= {name: figure.score.value for name, figure in found.metrics.items()}
        report |= {"cut_off": readings.answers.cut, "max_new_tokens": readings.answers.limit}
        if readings.confusion is not None:
            report["confusion"] = asdict(readings.confusion)
    else:
        report |= {"context": passages.context, "stride": passages.stride}
    report["intervals"] = _intervals(found)
    report["loss_by_position"] = [asdict(found) for found in readings.by_position.bins()]
    report["tokens_per_second"] = readings.tokens_per_second  # without a reference's time
    if reference is not None:
        report["reference"] = _beside(reference, model, readings, data)
    return report, readings


def loss_figures(loss: Loss, passages: Passages) -> dict[str, Any]:
    """Return the figures of a loss on all windows of ``passages``."""
    return {
        "tokens": loss.tokens,
        "bytes": passages.size_bytes,
        "cross_entropy": loss.cross_entropy,  # nats per token
        "perplexity": loss.perplexity,
        "bits_per_byte": loss.bits_per_byte(passages.size_bytes),
    }


def _intervals(found: Quality) -> dict[str, list[float]]:
    figures = {"perplexity": found.perplexity, **found.metrics}
    return {name: _limits(figure.score) for name, figure in figures.items()}


def _limits(figure: Estimate) -> list[float]:
    return [figure.low, figure.high]


def _beside(reference: Model, model: Model, readings: Readings, data: Data) -> dict[str, Any]:
    comparison, others = readings.comparison, readings.reference_by_position
    assert comparison is not None
    assert others is not None
    alike = agreement(model, reference, data.passages)
    return {
        "bundle": str(reference.bundle.folder),
        "recipe": reference.bundle.manifest.quantization.recipe,
        "cross_entropy": comparison.reference.cross_entropy,
        "perplexity": comparison.reference.perplexity,
        "perplexity_rise": comparison.perplexity_rise,  # share of the reference's perplexity
        "kl_divergence": comparison.kl_divergence,  # nats
        "top1_agreement": comparison.top1_agreement,
        "continuations": alike.continuations,
        "continuation_tokens": alike.tokens,
        "identical_continuations": alike.identical,  # share of the continuations
        "loss_by_position": [asdict(item) for item in others.bins()],
    }


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return the report as lines of text."""
    lines = {
        "bundle": report["bundle"],
        "recipe": report["recipe"],
        "text": report["text"],
        "predicted": f"{report['tokens']:,} tokens for {report['bytes']:,} bytes",
    }
    if "pairs" in report:
        lines["pairs"] = f"{report['pairs']:,}"
    else:
        lines["windows"] = f"{report['context']} tokens each, {report['stride']} tokens apart"
    limits = report["intervals"]
    low, high = limits["perplexity"]
    lines |= {
        "cross-entropy": f"{report['cross_entropy']:.4f} nats per token",
        "perplexity": f"{report['perplexity']:.3f} (95 % interval {low:.3f} to {high:.3f})",
        "bits per byte": f"{report['bits_per_byte']:.4f}",
    }
    for name, metric in METRICS.items():
        if name in limits:
            value, low, high = (
                f"{x:.2%}" if metric.is_share else f"{x:.2f}" for x in (report[name], *limits[name])
            )
            lines[name.replace("_", " ")] = f"{value} (95 % interval {low} to {high})"
    if report.get("cut_off"):
        at = report["max_new_tokens"]
        lines["cut off"] = f"{report['cut_off']:,} answers" + (
            "" if at is None else f", at {at} new tokens: use --max-new-tokens"
        )
    lines["throughput"] = f"{report['tokens_per_second']:,.0f} tokens/s"
    if beside := report.get("reference"):
        lines |= _reference_lines(beside)
    found = [f"{name:<22} {value}" for name, value in lines.items()]
    return [*found, *_confusion_lines(report.get("confusion"))]


def _confusion_lines(confusion: dict[str, Any] | None) -> list[str]:
    """Return a table with a row for each expected label and a column for each found one."""
    if confusion is None:
        return []
    labels, counts = confusion["labels"], confusion["counts"]
    width = max(len(label) for label in [*labels, "expected"])
    rows = [["expected", *labels]]
    rows += [[label, *map(str, row)] for label, row in zip(labels, counts, strict=True)]
    return ["", *("  ".join(f"{cell:>{width}}" for cell in row) for row in rows)]


def _reference_lines(beside: dict[str, Any]) -> dict[str, str]:
    return {
        "reference": f"{beside['bundle']}, {beside['recipe']}",
        "reference perplexity": f"{beside['perplexity']:.3f} (the bundle's: "
        f"{beside['perplexity_rise']:+.2%})",
        "KL divergence": f"{beside['kl_divergence']:.2e} nats",
        "top-1 agreement": f"{beside['top1_agreement']:.2%}",
        "identical": f"{beside['identical_continuations']:.1%} of {beside['continuations']} greedy "
        f"continuations of {beside['continuation_tokens']} tokens",
    }
