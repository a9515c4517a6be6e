"""One line a question: edgeseq, the strongest of the others, and the ratio of the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.compare.peers import OURS
from benchmarks.compare.summary import Comparison, Metric, Summary, comparison, is_ours
from benchmarks.compare.table import COMPARED, DESCRIPTIONS, METRICS, spread, title
from benchmarks.compare.workloads import BITS

Entries = Mapping[str, Mapping[Metric, Mapping[int, float]]]


def overview(summary: Summary) -> str:
    """Ratios above 1 are in edgeseq's favour: the median of those of single rounds.

    The form of a bundle that its recipe makes comes first; beside it that of edgeseq's other forms
    that comes off best, where it does better.
    """
    rows = [
        "| | edgeseq | the best other | ratio | edgeseq otherwise |",
        "|---|---|---|---|---|",
    ]
    for name in METRICS:
        for bits in BITS:
            entries = summary.values.get((name, bits), {})
            for metric in COMPARED.get(name, METRICS[name][:1]):
                if line := _line(entries, metric, f"{OURS}/{bits}"):
                    rows.append(f"| {DESCRIPTIONS[name]}, {bits}: {metric.name} | {line} |")
    return "\n".join(rows)


def _line(entries: Entries, metric: Metric, plain: str) -> str:
    found = comparison(entries, plain, metric)
    if found is None:
        return ""
    better = [
        (other.ratio, name, other)
        for name in _other_forms(entries, plain)
        if (other := comparison(entries, name, metric)) and other.ratio > found.ratio
    ]
    cells = [
        f"**{spread(entries[plain][metric], metric)}** {metric.unit}",
        f"{title(found.peer)} {spread(entries[found.peer][metric], metric)}",
        _ratio(found),
        "",
    ]
    if better:
        _, name, other = max(better)
        form = name.partition("/")[2]
        cells[3] = f"`{form}`: {spread(entries[name][metric], metric)}, {_ratio(other)}"
    return " | ".join(cells)


def _other_forms(entries: Entries, plain: str) -> Sequence[str]:
    return [name for name in entries if is_ours(name) and name != plain]


def _ratio(found: Comparison) -> str:
    return f"{found.ratio:.2f}"
