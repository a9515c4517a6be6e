"""A summary as one picture: a panel a question, a bar a program, and speed by context length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.compare.summary import (
    COLD,
    FIRST,
    LOAD,
    PEAK,
    SPEED,
    TOTAL,
    Metric,
    Summary,
    Task,
    is_ours,
)
from benchmarks.compare.table import title

OURS, THEIRS, TEXT, FAINT = "#0b6e99", "#b8bec5", "#30353a", "#8a9097"
COLUMNS = 3
PANELS: tuple[tuple[Task, Metric, str], ...] = (
    (("gpt2/decode", "int8"), SPEED, "GPT-2 int8, 32 + 128"),
    (("gpt2/decode", "int4"), SPEED, "GPT-2 int4, 32 + 128"),
    (("gpt2/decode", "fp32"), SPEED, "GPT-2 fp32, 32 + 128"),
    (("gpt2/after-512", "int8"), FIRST, "GPT-2 int8, prompt of 512"),
    (("gpt2/after-512", "int8"), SPEED, "GPT-2 int8, after 512"),
    (("gpt2/batch-8", "int8"), SPEED, "GPT-2 int8, batch of 8"),
    (("gpt2/beam-4", "int8"), SPEED, "GPT-2 int8, 4 beams"),
    (("t5-small/greedy", "int8"), TOTAL, "t5-small int8, 64 → 64"),
    (("t5-small/beam-4", "int8"), TOTAL, "t5-small int8, 64 → 64, 4 beams"),
    (("t5-base/beam-4", "int8"), TOTAL, "t5-base int8, 256 → 64, 4 beams"),
    (("bart-base/beam-4", "int8"), TOTAL, "BART base int8, 256 → 64, 4 beams"),
    (("marian/beam-4", "int8"), TOTAL, "Marian int8, 32 → 64, 4 beams"),
    (("gpt2/start", "int8"), LOAD, "GPT-2 int8, import to ready"),
    (("gpt2/start", "int8"), COLD, "GPT-2 int8, process start to first token"),
    (("gpt2/decode", "int8"), PEAK, "GPT-2 int8, peak memory"),
)


def draw(summary: Summary, path: Path) -> None:
    """Write the picture to ``path`` (PNG)."""
    panels = [panel for panel in PANELS if panel[0] in summary.values]
    contexts = {
        entry: {shape.prompt: values for shape, values in found[SPEED].items()}
        for entry, found in summary.growth.get(("gpt2/context", "int8"), {}).items()
    }
    count = len(panels) + 1 + bool(contexts)
    rows = math.ceil(count / COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(15, 0.4 + 2.6 * rows), layout="constrained", squeeze=False
    )
    places = iter(axes.flat)
    for (task, metric, heading), place in zip(panels, places, strict=False):
        values = {e: m[metric] for e, m in summary.values[task].items() if metric in m}
        bars(place, {e: list(v.values()) for e, v in values.items()}, metric, heading)
    installed = Metric("installed", "MB", False)
    sizes = {entry: [size] for entry, size in summary.installed_mb.items()}
    bars(next(places), sizes, installed, "Installed with all it needs")
    if contexts:
        lines(next(places), contexts)
    for place in places:
        place.set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def bars(place: Any, values: Mapping[str, list[float]], metric: Metric, heading: str) -> None:
    """One panel: the best on top, medians as numbers, lowest to highest as a thin line."""
    sign = 1 if metric.more_is_better else -1
    order = sorted(values, key=lambda entry: sign * median(values[entry]))
    longest = max(max(found) for found in values.values())
    for height, entry in enumerate(order):
        middle, colour = median(values[entry]), OURS if is_ours(entry) else THEIRS
        place.barh(height, middle, color=colour, height=0.72)
        low, high = min(values[entry]), max(values[entry])
        if high > low:
            place.plot([low, high], [height, height], color=TEXT, linewidth=1, alpha=0.6)
        digits = 2 if longest < 10 else 0
        place.text(
            high + 0.015 * longest, height, f"{middle:.{digits}f}", va="center", color=TEXT, size=8
        )
    place.set_yticks(range(len(order)), [title(entry) for entry in order], size=8)
    place.set_xlim(0, 1.14 * longest)
    better = "more" if metric.more_is_better else "less"
    place.set_title(f"{heading}\n{metric.unit}, {better} is better", size=9, loc="left")
    plain(place)


def lines(place: Any, contexts: Mapping[str, Mapping[int, Any]]) -> None:
    """Tokens a second by the length of the prompt."""
    speeds = {e: [median(found[n]) for n in sorted(found)] for e, found in contexts.items()}
    top = max(max(found) for found in speeds.values())
    label = -top
    for entry in sorted(speeds, key=lambda entry: speeds[entry][-1]):
        lengths, ours = sorted(contexts[entry]), is_ours(entry)
        colour, width = (OURS, 2) if ours else (FAINT, 1.2)
        place.plot(lengths, speeds[entry], color=colour, linewidth=width)
        label = max(speeds[entry][-1], label + 0.07 * top)  # not on the one below
        place.text(lengths[-1] + 12, label, title(entry), size=7, va="center", color=colour)
    place.set_ylim(0, 1.08 * top)
    place.set_xlim(0, 1480)
    place.set_xticks([32, 256, 512, 768, 960])
    place.set_title("GPT-2 int8 by tokens of prompt\ntokens/s, more is better", size=9, loc="left")
    plain(place)


def plain(place: Any) -> None:
    """Nothing that does not carry information."""
    place.spines[["top", "right", "left"]].set_visible(False)
    place.tick_params(length=0, labelsize=8, colors=TEXT)
    place.grid(axis="x", color="#e6e8ea", linewidth=0.6)
    place.set_axisbelow(True)
