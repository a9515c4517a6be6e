"""The report of ``edgeseq eval``, as numbers and as lines of text."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from ..model import Model
from ..progress import Progress
from ..request.passages import Passages
from .continuations import agreement, answers
from .error_rates import error_rates
from .losses import Comparison, Loss, PositionLoss, compare, measure


def measure_report(model: Model, reference: Model | None, passages: Passages) -> dict[str, Any]:
    """Measure the model and return the figures that ``--json`` prints."""
    total, comparison = passages.tokens, None
    own, others = PositionLoss(), PositionLoss()
    started = time.perf_counter()
    with Progress("evaluating", total, unit="tokens") as progress:
        if reference is None:
            loss = measure(model.new_decoder, passages.windows, progress, own)
        else:
            decoders = reference.new_decoder, model.new_decoder
            comparison = compare(*decoders, passages.windows, progress, (others, own))
            loss = comparison.candidate
    tokens_per_second = total / (time.perf_counter() - started)
    report = loss_figures(loss, passages)
    if passages.pairs:
        report |= {"pairs": len(passages.pairs), **_errors(model, passages)}
    else:
        report |= {"context": passages.context, "stride": passages.stride}
    report["loss_by_position"] = [asdict(found) for found in own.bins()]
    report["tokens_per_second"] = tokens_per_second  # with both models if there is a reference
    if reference is not None and comparison is not None:
        report["reference"] = _beside(reference, model, comparison, passages)
        report["reference"]["loss_by_position"] = [asdict(found) for found in others.bins()]
    return report


def loss_figures(loss: Loss, passages: Passages) -> dict[str, Any]:
    """Return the figures of a loss on all windows of ``passages``."""
    return {
        "tokens": loss.tokens,
        "bytes": passages.size_bytes,
        "cross_entropy": loss.cross_entropy,  # nats per token
        "perplexity": loss.perplexity,
        "bits_per_byte": loss.bits_per_byte(passages.size_bytes),
    }


def _errors(model: Model, passages: Passages) -> dict[str, float]:
    with Progress("answering", len(passages.pairs), unit="texts") as progress:
        found = answers(model, passages, progress)
    return asdict(error_rates(found, [target for _, target in passages.pairs]))


def _beside(
    reference: Model, model: Model, comparison: Comparison, passages: Passages
) -> dict[str, Any]:
    alike = agreement(model, reference, passages)
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
    lines |= {
        "cross-entropy": f"{report['cross_entropy']:.4f} nats per token",
        "perplexity": f"{report['perplexity']:.3f}",
        "bits per byte": f"{report['bits_per_byte']:.4f}",
    }
    for name in ("exact_match", "word_error_rate", "character_error_rate"):
        if name in report:
            lines[name.replace("_", " ")] = f"{report[name]:.2%}"
    lines["throughput"] = f"{report['tokens_per_second']:,.0f} tokens/s"
    if beside := report.get("reference"):
        lines |= _reference_lines(beside)
    return [f"{name:<22} {value}" for name, value in lines.items()]


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
