"""A summary as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.compare.peers import read_peers
from benchmarks.compare.summary import (
    AFTER_LOAD,
    ANONYMOUS,
    COLD,
    FIRST,
    IDLE,
    LOAD,
    PEAK,
    SPEED,
    STEADY,
    TOTAL,
    Comparison,
    Metric,
    Summary,
    Task,
    comparison,
    is_ours,
)
from benchmarks.compare.workloads import BITS, Shape

METRICS: dict[str, Sequence[Metric]] = {
    "gpt2/decode": (SPEED, FIRST, PEAK, STEADY, ANONYMOUS),
    "gpt2/after-512": (FIRST, SPEED, PEAK),
    "gpt2/batch-8": (SPEED, TOTAL, PEAK),
    "gpt2/beam-4": (SPEED, TOTAL, PEAK),
    "t5-small/greedy": (TOTAL, SPEED, PEAK),
    "t5-small/beam-4": (TOTAL, SPEED, PEAK),
    "t5-base/beam-4": (TOTAL, SPEED, PEAK),
    "bart-base/greedy": (TOTAL, SPEED, PEAK),
    "bart-base/beam-4": (TOTAL, SPEED, PEAK),
    "marian/greedy": (TOTAL, SPEED, PEAK),
    "marian/beam-4": (TOTAL, SPEED, PEAK),
    "gpt2/start": (LOAD, COLD, AFTER_LOAD),
    "gpt2/start-cold": (LOAD, COLD),
    "gpt2/idle": (IDLE,),
}
# What is compared with the best of the others; elsewhere the first figure.
COMPARED: dict[str, Sequence[Metric]] = {
    "gpt2/decode": (SPEED, PEAK),
    "gpt2/after-512": (FIRST, SPEED),
    "gpt2/start": (LOAD, COLD),
    "gpt2/idle": (),
}
DESCRIPTIONS = {
    "gpt2/decode": "GPT-2, 32 tokens of prompt, 128 new ones, greedy",
    "gpt2/after-512": "GPT-2, 512 tokens of prompt, 64 new ones, greedy",
    "gpt2/batch-8": "GPT-2, 8 prompts of 32 tokens in a batch, 64 new ones each, greedy",
    "gpt2/beam-4": "GPT-2, 32 tokens of prompt, 64 new ones, 4 beams",
    "t5-small/greedy": "t5-small, 64 tokens of source, 64 new ones, greedy",
    "t5-small/beam-4": "t5-small, 64 tokens of source, 64 new ones, 4 beams",
    "t5-base/beam-4": "t5-base, 256 tokens of source, 64 new ones, 4 beams",
    "bart-base/greedy": "BART base, 256 tokens of source, 64 new ones, greedy",
    "bart-base/beam-4": "BART base, 256 tokens of source, 64 new ones, 4 beams",
    "marian/greedy": "Marian, 32 tokens of source, 64 new ones, greedy",
    "marian/beam-4": "Marian, 32 tokens of source, 64 new ones, 4 beams",
    "gpt2/start": "GPT-2, start of the process to the first token of a 16-token prompt",
    "gpt2/start-cold": "the same with the page cache emptied of the program and the model",
    "gpt2/idle": "GPT-2, loaded, has generated, waits",
}


@dataclass(frozen=True)
class Growth:
    """A workload of several shapes: a table for each metric, a column for each shape."""

    description: str
    column: Callable[[Shape], int]
    metrics: Sequence[Metric]


GROWTHS: dict[str, Growth] = {
    "gpt2/context": Growth("GPT-2 by tokens of prompt", lambda s: s.prompt, (SPEED, FIRST)),
    "gpt2/rows": Growth("GPT-2 by rows of a batch", lambda s: s.rows, (SPEED, FIRST)),
    "gpt2/beams": Growth("GPT-2 by beams", lambda s: s.beams, (SPEED,)),
    "t5-small/source": Growth("t5-small by tokens of source", lambda s: s.prompt, (SPEED, FIRST)),
}


def markdown(summary: Summary) -> str:
    """All tables: one a workload and number of bits, then what does not depend on them."""
    parts = [machine(summary)]
    parts += [
        workload_table(summary, (name, bits))
        for name in METRICS
        for bits in BITS
        if (name, bits) in summary.values
    ]
    parts += [
        growth_table(summary, (name, bits), metric)
        for name, growth in GROWTHS.items()
        for bits in BITS
        for metric in growth.metrics
    ]
    parts += [installed_table(summary), remarks(summary)]
    return "\n\n".join(part for part in parts if part) + "\n"


def machine(summary: Summary) -> str:
    """Where, when and with what versions."""
    last = summary.runs[-1]
    described = ", ".join(f"{name}: {value}" for name, value in last["machine"].items())
    when = " to ".join(dict.fromkeys([summary.runs[0]["at"], last["at"]]))
    rows = [f"{described}; {last['system']}; {last['threads']} threads; {when}."]
    if found := summary.bandwidths:
        rows.append(
            f"Memory was read at {median(found):.1f} GB/s ({min(found):.1f} to {max(found):.1f})."
        )
    rows.append("")
    for entry, packages in sorted(summary.versions.items()):
        rows.append(f"- {title(entry)}: " + ", ".join(f"{k} {v}" for k, v in packages.items()))
    return "\n".join(rows)


def workload_table(summary: Summary, task: Task) -> str:
    """Medians (and lowest to highest) of one workload; best first."""
    name, bits = task
    entries = summary.values[task]
    metrics = [m for m in METRICS[name] if any(m in found for found in entries.values())]
    leading = metrics[0]
    sign = -1 if leading.more_is_better else 1
    order = sorted(entries, key=lambda e: sign * middle(entries[e].get(leading)))
    heads = [f"{m.name}, {m.unit}" for m in metrics]
    rows = [
        f"### {DESCRIPTIONS[name]}, {bits}",
        "",
        "| | " + " | ".join(heads) + " | rounds |",
        "|---|" + "---|" * (len(metrics) + 1),
    ]
    for entry in order:
        found = entries[entry]
        cells = [spread(found[m], m) if m in found else "" for m in metrics]
        rows.append(f"| {emphasized(entry)} | {' | '.join(cells)} | {len(found[leading])} |")
    for peer, reason in summary.cannot.get(task, {}).items():
        rows.append(f"| {title(peer)} | {reason} |" + " |" * len(metrics))
    return "\n".join([*rows, *ratios(entries, COMPARED.get(name, metrics[:1]))])


def ratios(
    entries: Mapping[str, Mapping[Metric, Mapping[int, float]]], metrics: Sequence[Metric]
) -> list[str]:
    """A line a form of ours: against the strongest peer, by pairs of the same round."""
    found: list[str] = []
    for metric in metrics:
        for entry in sorted(filter(is_ours, entries)):
            against = comparison(entries, entry, metric)
            if against:
                found.append(f"- {metric.name}, {title(entry)}: {described(against)}")
    return ["", *found] if found else []


def described(against: Comparison) -> str:
    """A comparison in words."""
    if not against.rounds:
        return (
            f"{against.ratio:.2f} × {title(against.peer)}, the best of the others "
            "(quotient of the medians: no round has both)"
        )
    return (
        f"{against.ratio:.2f} × {title(against.peer)}, the best of the others "
        f"(median of {against.rounds} pairs, {against.low:.2f} to {against.high:.2f})"
    )


def growth_table(summary: Summary, task: Task, metric: Metric) -> str:
    """Medians of ``metric`` by what differs between a workload's shapes."""
    growth = GROWTHS[task[0]]
    entries = summary.growth.get(task, {})
    cells = {
        entry: {growth.column(shape): median(v) for shape, v in found[metric].items()}
        for entry, found in entries.items()
        if metric in found
    }
    columns = sorted({column for found in cells.values() for column in found})
    if not columns:
        return ""
    rows = [
        f"### {growth.description}, {task[1]}: {metric.name}, {metric.unit}",
        "",
        "| | " + " | ".join(map(str, columns)) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for entry in sorted(cells, key=lambda name: (not is_ours(name), name)):
        found = [f"{cells[entry][c]:.0f}" if c in cells[entry] else "" for c in columns]
        rows.append(f"| {emphasized(entry)} | {' | '.join(found)} |")
    for peer, reason in summary.cannot.get(task, {}).items():
        rows.append(f"| {title(peer)} | {reason} |" + " |" * (len(columns) - 1))
    return "\n".join(rows)


def installed_table(summary: Summary) -> str:
    """What pip or npm puts on the disk to run a model, without pip itself."""
    rows = ["### Installed with all it needs", "", "| | MB |", "|---|---|"]
    for entry, size in sorted(summary.installed_mb.items(), key=lambda item: item[1]):
        rows.append(f"| {title(entry)} | {size:.0f} |")
    return "\n".join(rows)


def remarks(summary: Summary) -> str:
    """What went wrong."""
    found = [f"- {text}" for text in dict.fromkeys(summary.errors)]
    if summary.disturbed:
        found.append(f"- {summary.disturbed} measurements left out: other programs ran beside.")
    return "\n".join(["### Remarks", "", *found]) if found else ""


def spread(values: Mapping[int, float], metric: Metric) -> str:
    """A median with the lowest and the highest."""
    low, high = min(values.values()), max(values.values())
    digits = metric.digits
    return f"{middle(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def middle(values: Mapping[int, float] | None) -> float:
    """The median; without values one that sorts last."""
    return median(values.values()) if values else float("inf")


_TITLES = {name: peer.title for name, peer in read_peers().items()}


def title(entry: str) -> str:
    """How a program or an entry is called."""
    name, _, form = entry.partition("/")
    return f"{_TITLES.get(name, name)} {form}".strip()


def emphasized(entry: str) -> str:
    """The title of an entry, edgeseq's in bold."""
    return f"**{title(entry)}**" if is_ours(entry) else title(entry)
