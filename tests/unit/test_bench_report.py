"""The report of ``edgeseq bench``: order of measurements, statistics, ratios and table."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgeseq.runtime.bench import machine, worker
from edgeseq.runtime.bench.case import Case, Lengths, Sweep, cases_of
from edgeseq.runtime.bench.formats import bench_output
from edgeseq.runtime.bench.machine import read_bandwidth
from edgeseq.runtime.bench.report import over, report, statistics_of
from edgeseq.runtime.bench.rounds import Round, measure_rounds, turns
from edgeseq.runtime.bench.table import lines
from edgeseq.runtime.bench.worker import Run, gaps_of
from edgeseq.runtime.bundle.demo_bundles import DEMO_BUNDLES

LENGTHS = Lengths(prompts=[32], contexts=[32, 64], new_tokens=16, fewest_new_tokens=16, repeats=1)
VERSIONS = {"onnxruntime": "1.31.1", "numpy": "2.4.6"}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    folders = [DEMO_BUNDLES / name for name in ("gpt2", "t5")]
    return cases_of(folders, LENGTHS, Sweep(threads=[1]))


def measurement(speed: float, peak_memory_mb: float | None = 100.0) -> dict[str, Any]:
    return {
        "versions": VERSIONS,
        "kernels": "stock",
        "import_ms": 100.0,
        "load_s": 0.5,
        "first_token_ms": {"32": 10.0},
        "tokens_per_s": {"32": speed, "64": 0.8 * speed},
        "loop_overhead_ms": {"32": 0.1, "64": 0.1},
        "peak_memory_mb": peak_memory_mb,
        "resident_after_load_mb": peak_memory_mb,
    }


def a_round(
    *speeds: float, read: float = 2e9, others: float | None = None, **changes: Any
) -> Round:
    return Round(
        read_bytes_per_s=[read] * len(speeds),
        other_cpu_shares=[others] * len(speeds),
        measurements=[measurement(speed, **changes) for speed in speeds],
        busiest={"make": 0.5},
    )


# devices


def test_another_device_has_no_share_of_the_machines_bandwidth() -> None:
    machines = [
        {"device": "cpu"},
        {"device": "AzureExecutionProvider", "provider_options": {"a": "1"}},
    ]
    pair = cases_of([DEMO_BUNDLES / "gpt2"], LENGTHS, Sweep(threads=[1], machines=machines))
    assert [case.name for case in pair] == ["gpt2", "gpt2 (AzureExecutionProvider)"]
    assert pair[0].workload.load_options == {"device": "cpu", "threads": 1}
    assert pair[1].workload.load_options == {**machines[1], "threads": 1}
    found = report(pair, [a_round(100.0, 200.0)])
    assert [item["device"] for item in found["bundles"]] == ["cpu", "AzureExecutionProvider"]
    assert [[*item["share_of_read_bandwidth"]] for item in found["bundles"]] == [["32", "64"], []]
    table = "\n".join(lines(found))
    assert "gpt2 (AzureExecutionProvider): int8 on AzureExecutionProvider" in table
    [share] = [line for line in table.splitlines() if "share of read bandwidth at 64" in line]
    assert "Azure" not in share


def test_gaps_are_the_time_in_which_no_session_runs() -> None:
    """Runs of an encoder (0) and two decoders (1, 2) for a prompt and two steps."""
    runs = [
        *(Run(0, 0.0, 1.0), Run(1, 1.5, 2.0), Run(2, 2.25, 3.0)),
        *(Run(1, 4.0, 5.0), Run(2, 5.0, 5.5), Run(1, 7.5, 8.0), Run(2, 8.0, 9.0)),
    ]
    assert gaps_of(runs) == [0.5, 1.25, 2.0]
    assert gaps_of([run for run in runs if run.session != 2]) == [0.5, 2.0, 2.5]


# turns


def test_every_other_round_goes_backwards() -> None:
    assert [turns(3, number) for number in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


class Others:
    """A clock that says one share after another, and the last one for ever."""

    def __init__(self, *shares: float | None) -> None:
        self.shares = list(shares)

    def share(self) -> float | None:
        return self.shares.pop(0) if len(self.shares) > 1 else self.shares[0]


def rounds_of(
    cases: list[Case], count: int, others: Others, retries: int = 0
) -> tuple[list[Round], list[str], list[str]]:
    """Return the rounds, what was measured and the messages."""
    calls: list[str] = []
    messages: list[str] = []

    def bandwidth(case: Case) -> float:
        calls.append("bandwidth")
        return 1e9

    def measure(case: Case) -> dict[str, Any]:
        calls.append(case.name)
        return {"name": case.name, "call": len(calls)}

    clock: Any = lambda: others  # noqa: E731
    found = measure_rounds(
        cases,
        count,
        bandwidth=bandwidth,
        measure=measure,
        progress=messages.append,
        retries=retries,
        clock=clock,
    )
    return list(found), calls, messages


def test_rounds_measure_in_turns_and_report_in_order(cases: list[Case]) -> None:
    rounds, calls, messages = rounds_of(cases, 2, Others(None))
    once = ["bandwidth", "bandwidth"]  # the weights of the two differ in size
    assert calls == [*once, "gpt2", "t5", *once, "t5", "gpt2"]
    for item in rounds:
        assert [got["name"] for got in item.measurements] == ["gpt2", "t5"]
    assert messages[-1] == "round 2 of 2: gpt2"


def test_a_disturbed_measurement_is_repeated_and_the_least_disturbed_counts(
    cases: list[Case],
) -> None:
    [found], calls, messages = rounds_of(cases[:1], 1, Others(0.4, 0.2, 0.3), retries=2)
    assert calls == ["bandwidth", "gpt2", "gpt2", "gpt2"]
    assert found.measurements[0]["call"] == 3
    assert found.other_cpu_shares == [0.2]
    assert messages[-1] == "round 1 of 1: gpt2, again, because other programs used the processors"
    [found], calls, _ = rounds_of(cases[:1], 1, Others(0.4, 0.01, 0.9), retries=2)
    assert calls == ["bandwidth", "gpt2", "gpt2"]
    assert found.other_cpu_shares == [0.01]
    [found], calls, _ = rounds_of(cases[:1], 1, Others(0.4), retries=0)
    assert (calls, found.other_cpu_shares) == (["bandwidth", "gpt2"], [0.4])


def test_a_sweep_names_what_it_changes() -> None:
    sweep = Sweep(threads=[1, 2], rows=[1, 4], kv_caches=["int8"])
    cases = cases_of([DEMO_BUNDLES / "gpt2"], LENGTHS, sweep)
    assert [case.name for case in cases] == [
        f"gpt2 (int8 KV cache, {threads}, {rows})"
        for threads in ("1 thread", "2 threads")
        for rows in ("1 row", "4 rows")
    ]
    assert [(case.threads, case.workload.rows) for case in cases] == [
        (1, 1),
        (1, 4),
        (2, 1),
        (2, 4),
    ]
    [case] = cases_of([DEMO_BUNDLES / "gpt2"], LENGTHS, Sweep(threads=[1], beams=[4]))
    assert (case.name, case.workload.beams) == ("gpt2 (4 beams)", 4)


# statistics


def test_statistics_of_several_values() -> None:
    assert statistics_of([5.0, 1.0, 2.0, 4.0, 3.0]) == {
        "median": 3.0,
        "min": 1.0,
        "max": 5.0,
        "quartile_1": 2.0,
        "quartile_3": 4.0,
        "plus_minus": 1.96293,  # scipy.stats.t.ppf(0.975, 4) * sqrt(2.5 / 5)
    }


def test_statistics_of_one_value() -> None:
    assert statistics_of([7.0]).pop("plus_minus", 0) is None
    assert {**statistics_of([7.0]), "plus_minus": 7.0} == dict.fromkeys(statistics_of([7.0]), 7.0)


def test_nested_values_that_all_have_are_combined() -> None:
    values = [{"a": 1, "b": {"x": 2, "y": 3}, "c": None}, {"a": 10, "b": {"x": 20}, "c": 5}]
    assert over(sum, values) == {"a": 11, "b": {"x": 22}, "c": None}


def test_ratios_are_of_the_same_round(cases: list[Case]) -> None:
    rounds = [a_round(10, 20), a_round(100, 300), a_round(1000, 4000)]
    result = report(cases, rounds)
    [ratios] = result["ratios_to_first"]
    assert ratios["name"] == "t5"
    assert ratios["tokens_per_s"]["32"]["median"] == 3
    assert (ratios["tokens_per_s"]["64"]["min"], ratios["tokens_per_s"]["64"]["max"]) == (2, 4)
    assert result["bundles"][0]["speed_to_first_context"]["64"]["median"] == 0.8


def test_share_is_of_the_same_rounds_read_bandwidth(cases: list[Case]) -> None:
    weights_gb = cases[0].manifest.weights_per_token_bytes / 1e9
    rounds = [a_round(50, read=2e9), a_round(50, read=4e9), a_round(50, read=1e9)]
    [item] = report(cases[:1], rounds)["bundles"]
    assert item["gb_per_s"]["32"]["median"] == pytest.approx(50 * weights_gb, abs=1e-6)
    share = item["share_of_read_bandwidth"]["32"]
    figures = [share[name] for name in ("min", "median", "max")]
    assert figures == pytest.approx([50 * weights_gb / read for read in (4, 2, 1)], rel=1e-4)


def test_a_share_is_never_above_one(cases: list[Case]) -> None:
    weights = cases[0].manifest.weights_per_token_bytes
    [item] = report(cases[:1], [a_round(50, read=weights * 45)])["bundles"]
    shares = item["share_of_read_bandwidth"]
    assert (shares["32"]["max"], shares["64"]["max"]) == (1, 0.8)


def test_rows_share_the_reads_of_a_step() -> None:
    sweep = Sweep(threads=[1], rows=[1, 4])
    found = report(cases_of([DEMO_BUNDLES / "gpt2"], LENGTHS, sweep), [a_round(10, 40)])["bundles"]
    one, four = (item["gb_per_s"]["32"]["median"] for item in found)
    assert one == four
    speeds = [item["prefill_tokens_per_s"]["32"]["median"] for item in found]
    assert speeds == [3200, 12800]


# table


def table(cases: list[Case], *rounds: Round) -> list[str]:
    return list(lines(report(cases, rounds)))


def row(found: list[str], label: str) -> list[str]:
    [line] = [line for line in found if line.startswith(label)]
    return line.removeprefix(label).split()


def test_table_shows_medians_spread_and_ratios(cases: list[Case]) -> None:
    found = table(cases, a_round(10, 20), a_round(11, 33), a_round(12, 48))
    place = next(i for i, line in enumerate(found) if line.startswith("decode speed at 32 tokens,"))
    assert found[place].split()[-4:] == ["gpt2", "11.0", "10.0", "12.0"]
    assert found[place + 1].split() == ["t5", "33.0", "20.0", "48.0", "3.00×"]


def test_unknown_figures_are_not_available(cases: list[Case]) -> None:
    found = table(cases[:1], a_round(10, peak_memory_mb=None))
    assert row(found, "peak memory, MB") == ["gpt2", "not", "available"]
    assert "CPU use of other programs: not available" in "\n".join(found)


def test_disturbed_rounds_are_named(cases: list[Case]) -> None:
    found = table(cases, a_round(10, 20, others=0.3), a_round(10, 20, others=0.01))
    assert found[-1] == (
        "t5: other programs disturbed 1 of 2 rounds: close them and measure again."
    )
    assert "other programs: make (0.50 cores)" in found


def test_rows_of_every_speed(cases: list[Case]) -> None:
    found = report(cases, [a_round(10, 20, others=0.3), a_round(12, 24)])
    rows = [json.loads(line) for line in bench_output(found, "jsonl").splitlines()]
    names = ["pp32", "tg16@32", "tg16@64"]
    assert [(row["bundle"], row["test"]) for row in rows] == [
        (name, test) for name in ("gpt2", "t5") for test in names
    ]
    speeds = [row["tokens_per_s"] for row in rows[:3]]
    assert speeds == pytest.approx([3200, 11, 8.8])
    assert rows[0]["machine"]["onnxruntime"] == "1.31.1"
    assert rows[0]["machine"]["memory_gb"] > 0
    [head, first, *_] = csv.reader(bench_output(found, "csv").splitlines())
    assert (
        dict(zip(head, first, strict=True)).items()
        >= {
            "bundle": "gpt2",
            "threads": "1",
            "test": "pp32",
            "disturbed_rounds": "1",
        }.items()
    )
    markdown = bench_output(found, "md").splitlines()
    assert markdown[0].startswith("| bundle | recipe |")
    assert markdown[3].endswith("| tg16@32 | 11.0 ± 12.7\\* |")
    assert json.loads(bench_output(found, "json")) == found


# the machine


@pytest.mark.parametrize("threads", [1, 3])
def test_read_bandwidth_is_a_rate(threads: int) -> None:
    assert 0 < read_bandwidth(threads, size_bytes=8 << 20, passes=2) < np.inf


def test_read_bandwidth_without_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SEARCH", None)
    assert 0 < read_bandwidth(1, size_bytes=1 << 20, passes=1) < np.inf


def test_the_c_library_finds_what_there_is() -> None:
    """So it reads the whole array when there is nothing to find."""
    if machine.SEARCH is None:
        pytest.skip("there is no C library")
    array = np.ones(1 << 16, np.int64)
    address = array.ctypes.data
    assert machine.SEARCH(address, 255, array.nbytes) is None
    array[-1] = 255
    assert machine.SEARCH(address, 255, array.nbytes) == address + array.nbytes - 8


class Seconds(NamedTuple):
    """Processor times with psutil's names on Linux."""

    user: float
    nice: float
    system: float
    idle: float
    iowait: float
    irq: float
    softirq: float
    steal: float
    guest: float
    guest_nice: float


def test_the_cpu_share_of_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.psutil.Process, "cpu_times", lambda self: (0.0,) * 5)
    monkeypatch.setattr(
        machine.psutil, "cpu_times", lambda: Seconds(100, 0, 0, 1000, 0, 0, 0, 0, 7, 7)
    )
    clock = machine.OthersClock()
    monkeypatch.setattr(
        machine.psutil, "cpu_times", lambda: Seconds(110, 5, 5, 1060, 10, 0, 0, 10, 9, 9)
    )
    assert clock.share() == 0.3  # 30 of 100 seconds were neither idle nor waiting
    monkeypatch.setattr(machine.psutil.Process, "cpu_times", lambda self: (4.0, 3.0, 2.0, 1.0, 0.0))
    assert clock.share() == 0.2  # 10 of them were this process's and its children's


def test_peak_memory_is_unknown_without_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.sys, "platform", "win32")
    assert worker.peak_bytes() is None  # psutil knows it on Windows itself


@pytest.mark.skipif(not worker.STATUS.is_file(), reason="needs Linux")
def test_peak_is_at_least_what_is_resident() -> None:
    resident = machine.resident_bytes(os.getpid())
    peak = worker.peak_bytes()  # after it: memory may grow in between
    assert peak is not None
    assert resident is not None
    assert 0 < resident <= peak


def test_memory_of_a_process_that_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert machine.resident_bytes(process.pid) is None
