"""Plots of reports. Needs matplotlib (the extra ``bench``), which no other module imports.

Colours are those of Okabe and Ito, which colour-blind people can tell apart. Lines also differ by
their style and their marker, so that a print in black and white can be read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from ..runtime.bench.table import number
from ..runtime.errors import MissingPackageError, OptionError
from .labels import place_labels

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a06a00", "#333333")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SIZE_INCHES, DPI = (7.2, 4.4), 150
LARGEST_AREA, SMALLEST_AREA = 1100.0, 40.0  # points², of the circle of a bundle
LOG_FROM = 8.0  # ratio of the largest to the smallest value from which an axis is logarithmic
LEAST_ROOM = 0.002  # around the values, as a share of the largest: they may all be the same
CHARTS = {"speed": "quality_by_speed.png", "size": "quality_by_size.png"}


class Look(NamedTuple):
    """How a line is drawn."""

    color: str
    linestyle: Any
    marker: str


def looks() -> Iterator[Look]:
    """Yield looks without end, of which the first 280 differ."""
    for color, style, marker in zip(cycle(COLOURS), cycle(STYLES), cycle(MARKERS), strict=False):
        yield Look(color, style, marker)


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


def check_charts(folder: Path | None) -> None:
    """Raise an error before the measurement if no charts can be drawn.

    Raises ``OptionError`` if there is no folder, ``MissingPackageError`` without matplotlib.
    """
    if folder is not None and not folder.is_dir():
        raise OptionError(f"There is no folder {folder} for the charts: create it first.")
    _pyplot()


def plot_bench(report: Mapping[str, Any], path: Path) -> None:
    """Plot the time per token by context length, from the report of ``edgeseq bench``."""
    figure, axes = _axes("context length, tokens", "ms per token")
    for look, bundle in zip(looks(), report["bundles"], strict=False):
        speeds = bundle["tokens_per_s"]
        lengths = sorted(map(int, speeds))
        figures = [speeds[str(length)] for length in lengths]
        low, high = (
            [1e3 / found[name] for found in figures] for name in ("quartile_3", "quartile_1")
        )
        middle = [1e3 / found["median"] for found in figures]
        axes.plot(lengths, middle, label=bundle["name"], **look._asdict())
        axes.fill_between(lengths, low, high, color=look.color, alpha=0.15, linewidth=0)
    axes.set_title(_of_rounds(report["rounds"]), loc="left", fontsize=10)
    _legend(axes)
    _save(figure, path)


def _of_rounds(count: int) -> str:
    return f"Median and quartiles of {count} rounds" if count > 1 else "One round"


def plot_eval(report: Mapping[str, Any], path: Path) -> None:
    """Plot the cross-entropy by context length, from the report of ``edgeseq eval``.

    With a reference, a second plot below shows the difference, because the lines may coincide.
    """
    reference = report.get("reference")
    rows = 1 if reference is None else 2
    height = SIZE_INCHES[1] * (1 if rows == 1 else 1.45)
    figure, grid = _pyplot().subplots(
        rows,
        sharex=True,
        squeeze=False,
        figsize=(SIZE_INCHES[0], height),
        dpi=DPI,
        gridspec_kw={"height_ratios": [3, 2][:rows]},
    )
    upper, lower = grid[0][0], grid[-1][0]
    measured = [report] if reference is None else [report, reference]
    names = [Path(found["bundle"]).name for found in measured]
    if len(set(names)) < len(names):
        names = [f"{names[0]}, {report['kv_cache']} KV cache", f"{names[0]}, reference"]
    for look, name, found in zip(looks(), names, measured, strict=False):
        bins = found["loss_by_position"]
        losses = [item["cross_entropy"] for item in bins]
        upper.plot([item["first"] for item in bins], losses, label=name, **look._asdict())
    if reference is not None:
        bins = zip(report["loss_by_position"], reference["loss_by_position"], strict=True)
        points = [(own["first"], own["cross_entropy"] - o["cross_entropy"]) for own, o in bins]
        look = next(looks())
        lower.plot(*zip(*points, strict=True), **look._asdict())
        lower.axhline(0, color="#888888", linewidth=1, linestyle="--")
        _label(lower, "", "difference to\nthe reference, nats")
        _fit(lower, [y for _, y in points] + [0.0], "y")
    _label(upper, "", "cross-entropy, nats per token")
    lower.set_xlabel("context length, tokens")
    lower.set_xscale("log", base=2)
    lower.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    title = f"{Path(report['text']).name}, {report['tokens']:,} tokens"
    upper.set_title(title, loc="left", fontsize=10)
    if reference is not None:
        _legend(upper)
    _save(figure, path)


def save_charts(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the charts of ``edgeseq compare`` to a folder; return their paths."""
    paths = []
    for by, name in CHARTS.items():
        if (figure := quality_chart(report, by)) is not None:
            _save(figure, folder / name)
            paths.append(folder / name)
    return paths


def charts_as_svg(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the charts of ``edgeseq compare`` as texts in SVG, by their titles."""
    charts = {}
    for by in CHARTS:
        if (figure := quality_chart(report, by)) is not None:
            out = io.StringIO()
            figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
            _pyplot().close(figure)
            charts[f"Quality by {by}"] = out.getvalue()
    return charts


def quality_chart(report: Mapping[str, Any], by: str) -> Any:
    """Return a figure of the quality of each bundle by its decode "speed" or its "size".

    With speeds, the area of a circle is the size. Bars are confidence intervals: of the speed, and
    of the difference in quality to the reference. None if there are no figures to draw.
    """
    title, form, points = _points(report, by)
    if not points:
        return None
    what = {
        "speed": f"decode speed (tg{report['new_tokens']}), tokens/s",
        "size": "size of the bundle, MB",
    }
    figure, axes = _axes(what[by], title)
    axes.grid(axis="x", alpha=0.25)
    # An error bar that is longer than half of the speed leaves the axes.
    errors = [(point.x, min(point.x_error or 0.0, point.x / 2)) for point in points]
    _scale(axes, [x + sign * error for x, error in errors for sign in (-1, 1)])
    reference = next((point for point in points if point.is_reference), None)
    if reference is not None:
        axes.axhline(reference.y, color="#888888", linewidth=1, linestyle="--", zorder=1)
    largest = max(point.size_mb for point in points)
    areas = []
    for look, point in zip(looks(), points, strict=False):
        share = point.size_mb / largest if by == "speed" else 0.1
        areas.append(max(LARGEST_AREA * share, SMALLEST_AREA))
        axes.errorbar(
            point.x,
            point.y,
            xerr=point.x_error,
            yerr=[[point.y - point.low], [point.high - point.y]],
            color=look.color,
            linewidth=1.2,
            capsize=3,
            zorder=4 if point.is_reference else 2,
        )
        axes.scatter(
            point.x,
            point.y,
            s=areas[-1],
            marker="o" if by == "speed" else look.marker,
            facecolor="white" if point.is_reference else look.color,
            edgecolor=look.color,
            linewidth=1.6,
            alpha=0.85,
            zorder=3,
        )
    _fit(axes, [y for point in points for y in (point.low, point.y, point.high)], "y")
    axes.yaxis.set_major_formatter(lambda value, _: form(value))
    note = f"{report['data']['file']}; dashed: the reference"
    if by == "speed":
        note += "; area of a circle: size of the bundle"
    axes.set_title(note, loc="left", fontsize=9)
    names = [f"{point.name}\n{number(point.size_mb)} MB" for point in points]
    bars = [(x - e, p.low, x + e, p.high) for (x, e), p in zip(errors, points, strict=True)]
    place_labels(figure, axes, [(p.x, p.y) for p in points], areas, names, bars)
    return figure


class Point(NamedTuple):
    """A bundle in a chart of quality."""

    name: str
    size_mb: float
    x: float
    x_error: float | None
    y: float
    low: float
    high: float
    is_reference: bool


def _points(report: Mapping[str, Any], by: str) -> tuple[str, Any, list[Point]]:
    """Return the title of the y axis, the form of its numbers, and the points."""
    name, metric = next(iter(report["metrics"].items()), (None, None))
    scale = 1.0
    if metric is None:
        title = "perplexity (lower is better)"
    else:
        scale = 100.0 if metric["is_share"] else 1.0
        unit = ", %" if metric["is_share"] else ""
        better = "higher" if metric["is_better_high"] else "lower"
        title = f"{metric['title']}{unit} ({better} is better)"
    points = []
    for bundle in report["bundles"]:
        figure = bundle["perplexity"] if metric is None else bundle["metrics"].get(name)
        speed = bundle.get("decode_tokens_per_s")
        if figure is None or (by == "speed" and speed is None):
            continue
        y = figure["score"]["value"]
        if not math.isfinite(y):
            continue
        low = high = y
        difference = figure["difference"]
        if difference is not None and math.isfinite(sum(difference.values())):
            low, high = (y + difference[k] - difference["value"] for k in ("low", "high"))
        points.append(
            Point(
                name=bundle["name"],
                size_mb=bundle["size_mb"],
                x=bundle["size_mb"] if by == "size" else speed["median"],
                x_error=None if by == "size" else speed["plus_minus"],
                y=scale * y,
                low=scale * min(low, y),
                high=scale * max(high, y),
                is_reference=bundle["is_reference"],
            )
        )
    return title, lambda value: f"{value:g}", points


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Fit the x axis; large ratios get a logarithmic axis with plain numbers."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= LOG_FROM:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, high * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        _fit(axes, values, "x")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _fit(axes: Any, values: Sequence[float], axis: str, share: float = 0.18) -> None:
    """Fit the limits of an axis to the values, with room for labels around them."""
    low, high = min(values), max(values)
    room = max(share * (high - low), LEAST_ROOM * abs(high)) or 1e-3
    first = low - room if low <= 0 or axis == "y" else max(low - room, 0.0)
    (axes.set_ylim if axis == "y" else axes.set_xlim)(first, high + room)


def _axes(x: str, y: str) -> tuple[Any, Any]:
    figure, axes = _pyplot().subplots(figsize=SIZE_INCHES, dpi=DPI)
    _label(axes, x, y)
    return figure, axes


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.margins(y=0.1)


def _legend(axes: Any) -> None:
    """Put the legend beside the axes, where no line is."""
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3.2)


def _save(figure: Any, path: Path) -> None:
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
