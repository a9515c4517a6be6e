"""From measurements to figures: medians, spreads, ratios of pairs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare.peers import OURS
from benchmarks.compare.workloads import Shape

Line = dict[str, Any]
Task = tuple[str, str]  # workload, bits


@dataclass(frozen=True)
class Metric:
    """A figure of a measurement, and whether more of it is better."""

    name: str
    unit: str
    more_is_better: bool
    digits: int = 0


SPEED = Metric("tokens/s after the first", "tokens/s", True, 1)
TOTAL = Metric("tokens/s of the whole call", "tokens/s", True, 1)
FIRST = Metric("first token", "ms", False, 1)
LOAD = Metric("import to ready", "s", False, 3)
COLD = Metric("process start to first token", "s", False, 3)
PEAK = Metric("peak memory", "MB", False)
AFTER_LOAD = Metric("memory after loading", "MB", False)
STEADY = Metric("memory after the runs", "MB", False)
ANONYMOUS = Metric("of it not in files", "MB", False)
IDLE = Metric("CPU while idle", "% of a core", False, 2)


@dataclass(frozen=True)
class Summary:
    """What reports are made of.

    ``values[task][entry][metric]`` are figures by round, of the last shape where a workload has
    several; ``growth[task][entry][metric][shape]`` are the figures of each shape, in any order;
    ``runs`` are the lines that describe the machine; ``bandwidths`` how fast memory was read before
    each turn, GB/s.
    """

    runs: Sequence[Line]
    values: Mapping[Task, Mapping[str, Mapping[Metric, Mapping[int, float]]]]
    growth: Mapping[Task, Mapping[str, Mapping[Metric, Mapping[Shape, Sequence[float]]]]]
    installed_mb: Mapping[str, float]
    cannot: Mapping[Task, Mapping[str, str]]
    versions: Mapping[str, Mapping[str, str]]
    disturbed: int = 0
    errors: Sequence[str] = field(default_factory=list)
    bandwidths: Sequence[float] = field(default_factory=list)


def read_lines(paths: Iterable[Path]) -> list[Line]:
    """The lines of results, in order; rounds of a later run count on from those before."""
    lines: list[Line] = []
    rounds = first = 0
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if line["kind"] == "run":
                first = rounds
            elif line["kind"] == "measurement":
                line["round"] += first
                rounds = max(rounds, line["round"] + 1)
            lines.append(line)
    return lines


def by_machine(lines: Iterable[Line]) -> list[list[Line]]:
    """The lines of each machine and number of threads, in the order of their first runs.

    A machine is all that its results say of it. Older ones do not name the instructions of a
    processor, so they stay apart from newer ones.
    """
    machines: dict[str, list[Line]] = {}
    current: list[Line] = []
    for line in lines:
        if line["kind"] == "run":
            key = json.dumps([line["machine"], line["threads"]], sort_keys=True)
            current = machines.setdefault(key, [])
        current.append(line)
    return list(machines.values())


def summarize(lines: Iterable[Line]) -> Summary:
    """Sort what was measured; disturbed measurements are counted and left out."""
    values: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    growth: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    cannot: Any = defaultdict(dict)
    runs, installed, versions, errors, disturbed = [], {}, {}, [], 0
    bandwidths: list[float] = []
    for line in lines:
        task = (line.get("workload", ""), line.get("bits", ""))
        if line["kind"] == "run":
            runs.append(line)
        elif line["kind"] == "installed":
            installed[line["entry"]] = line["mb"]
        elif line["kind"] == "cannot":
            cannot[task][line["entry"]] = line["reason"]
        elif line["kind"] == "bandwidth":
            bandwidths.append(line["gb_per_s"])
        elif "error" in line:
            errors.append(f"{line['entry']}, {' '.join(task)}: {line['error']}")
        elif line.get("disturbed"):
            disturbed += 1
        else:
            versions[line["entry"].split("/")[0]] = line["versions"]
            for metric, value in figures(line).items():
                values[task][line["entry"]][metric][line["round"]] = value
            if len(line["cases"]) > 1:
                for case in line["cases"]:
                    shape = Shape(case["rows"], case["prompt"], case["new"], case.get("beams", 1))
                    for metric, value in times(case).items():
                        growth[task][line["entry"]][metric][shape].append(value)
    for task, reasons in cannot.items():  # an earlier run may have lacked what a later one has
        for name in [n for n in reasons if any(f"{e}/".startswith(f"{n}/") for e in values[task])]:
            del reasons[name]
    return Summary(runs, values, growth, installed, cannot, versions, disturbed, errors, bandwidths)


def figures(line: Line) -> dict[Metric, float]:
    """The figures of one measurement; where it repeated something, the median."""
    found = {LOAD: line["load_s"], COLD: line["cold_start_s"]}
    found |= times(line["cases"][-1])
    if line["after_runs"]:
        found[PEAK] = line["after_runs"]["peak_mb"]
        found[STEADY] = line["after_runs"]["resident_mb"]
        found[ANONYMOUS] = line["after_runs"]["anonymous_mb"]
        found[AFTER_LOAD] = line["after_load"]["resident_mb"]
    if "idle_cpu_share" in line:
        found[IDLE] = 100 * line["idle_cpu_share"]
    return found


def times(case: Mapping[str, Any]) -> dict[Metric, float]:
    """The figures of one shape; none where nothing but the start was measured."""
    if not case["total_s"]:
        return {}
    found = {
        FIRST: 1e3 * median(case["first_token_s"]),
        TOTAL: case["rows"] * case["new"] / median(case["total_s"]),
    }
    if case["new"] > 1:
        found[SPEED] = speed(case)
    return found


def speed(case: Mapping[str, Any]) -> float:
    """Tokens a second after the first one, of all rows together."""
    seconds: float = median(case["total_s"]) - median(case["first_token_s"])
    tokens: int = case["rows"] * (case["new"] - 1)
    return tokens / seconds


def is_ours(entry: str) -> bool:
    """Whether an entry is edgeseq's."""
    return entry.split("/")[0] == OURS


@dataclass(frozen=True)
class Comparison:
    """Our figure against the strongest peer's."""

    peer: str
    ratio: float  # of the same round, ours over theirs or the other way: above 1 we are better
    rounds: int  # 0: no round has both, and the ratio is that of the medians
    low: float
    high: float


def comparison(
    entries: Mapping[str, Mapping[Metric, Mapping[int, float]]], ours: str, metric: Metric
) -> Comparison | None:
    """``ours`` against the peer that comes off best against it; None without a peer."""
    found = []
    mine = entries.get(ours, {}).get(metric, {})
    for entry, metrics in entries.items():
        theirs = metrics.get(metric, {})
        common = sorted(mine.keys() & theirs.keys())
        if is_ours(entry) or not mine or not theirs:
            continue
        ratios = [mine[r] / theirs[r] for r in common]
        if not common:  # measured by runs of their own
            ratios = [median(mine.values()) / median(theirs.values())]
        if not metric.more_is_better:
            ratios = [1 / ratio for ratio in ratios]
        found.append(Comparison(entry, median(ratios), len(common), min(ratios), max(ratios)))
    return min(found, key=lambda c: c.ratio, default=None)
