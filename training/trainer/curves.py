"""The curves of a run as a PNG; needs matplotlib, which no other module of training imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoints import whole

COLOURS = ("#0b6e99", "#c2571a", "#5b8c3a")
SIZE_INCHES, DPI = (7.2, 4.4), 150


def plot_curves(records: Sequence[Mapping[str, Any]], best_step: int | None, path: Path) -> bool:
    """Plot training loss, held-out loss and exact match by step; return whether there is a plot.

    Without matplotlib nothing is plotted.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    figure, axes = plt.subplots(figsize=SIZE_INCHES, dpi=DPI)
    _line(axes, records, "loss", "training loss", COLOURS[0], "-")
    _line(axes, records, "held_out_loss", "held-out loss", COLOURS[1], "o-")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if any("held_out_exact_match" in record for record in records):
        right = axes.twinx()
        _line(right, records, "held_out_exact_match", "exact match", COLOURS[2], "s--")
        right.set_ylim(0, 1.02)
        right.set_ylabel("exact match, share of the held-out pairs")
        right.spines["top"].set_visible(False)
        right.legend(frameon=False, loc="center right")
    if best_step is not None:
        axes.axvline(best_step, color="0.6", linewidth=1, linestyle=":", label="best checkpoint")
    axes.legend(frameon=False, loc="upper right")
    try:
        with whole(path) as partial:
            figure.savefig(partial, format="png", bbox_inches="tight")
    finally:
        plt.close(figure)
    return True


def _line(
    axes: Any, records: Sequence[Mapping[str, Any]], name: str, label: str, colour: str, style: str
) -> None:
    points = [(record["step"], record[name]) for record in records if name in record]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=3)
