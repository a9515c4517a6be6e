"""Plots of reports. Needs matplotlib (the extra ``bench``), which no other module imports."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from ..runtime.errors import MissingPackageError, OptionError

COLOURS = ("#0b6e99", "#c2571a", "#5b8c3a", "#8a4f9e", "#b8860b", "#30353a")
SIZE_INCHES, DPI = (7.2, 4.4), 150


def check_plot(path: Path | None) -> None:
    """Raise an error before the measurement if no plot can be written to ``path``.

    Raises ``OptionError`` for a bad path, ``MissingPackageError`` without matplotlib.
    """
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise OptionError(f"{path} does not end in .png: plots are written as PNG files.")
    if not path.parent.is_dir():
        raise OptionError(f"There is no folder {path.parent} for the plot: create it first.")
    _pyplot()


def plot_bench(report: Mapping[str, Any], path: Path) -> None:
    """Plot the time per token by context length, from the report of ``edgeseq bench``."""
    figure, axes = _axes("context length, tokens", "ms per token")
    for colour, bundle in zip(cycle(COLOURS), report["bundles"], strict=False):
        speeds = bundle["tokens_per_s"]
        lengths = sorted(map(int, speeds))
        figures = [speeds[str(length)] for length in lengths]
        low, high = (
            [1e3 / found[name] for found in figures] for name in ("quartile_3", "quartile_1")
        )
        middle = [1e3 / found["median"] for found in figures]
        axes.plot(lengths, middle, "o-", color=colour, label=bundle["name"])
        axes.fill_between(lengths, low, high, color=colour, alpha=0.15, linewidth=0)
    _finish(figure, axes, path, _of_rounds(report["rounds"]))


def _of_rounds(count: int) -> str:
    return f"Median and quartiles of {count} rounds" if count > 1 else "One round"


def plot_eval(report: Mapping[str, Any], path: Path) -> None:
    """Plot the cross-entropy by context length, from the report of ``edgeseq eval``."""
    figure, axes = _axes("context length, tokens", "cross-entropy, nats per token")
    measured = [report]
    if reference := report.get("reference"):
        measured.append(reference)
    names = [Path(found["bundle"]).name for found in measured]
    if len(set(names)) < len(names):
        names = [f"{names[0]}, {report['kv_cache']} KV cache", f"{names[0]}, reference"]
    for colour, name, found in zip(COLOURS, names, measured, strict=False):
        bins = found["loss_by_position"]
        losses = [found["cross_entropy"] for found in bins]
        axes.plot([found["first"] for found in bins], losses, "o-", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _finish(figure, axes, path, f"{Path(report['text']).name}, {report['tokens']:,} tokens")


def _axes(x: str, y: str) -> tuple[Any, Any]:
    figure, axes = _pyplot().subplots(figsize=SIZE_INCHES, dpi=DPI)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def _finish(figure: Any, axes: Any, path: Path, title: str) -> None:
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(path, bbox_inches="tight")
    _pyplot().close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "A plot needs matplotlib: install the extra 'bench' "
            '(python -m pip install "edgeseq[cpu,bench]").'
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
