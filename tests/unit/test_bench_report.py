"""The report of ``edgeseq bench``: order of measurements, statistics, ratios and table."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgeseq.runtime.bench import machine, worker
from edgeseq.runtime.bench.case import Case, Lengths, cases_of
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
    return cases_of([DEMO_BUNDLES / name for name in ("gpt2", "t5")], [None], LENGTHS, 1)


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


def a_round(*speeds: float, read: float = 2e9, **changes: Any) -> Round:
    return Round(
        read_bytes_per_s=read,
        other_cpu_share=None,
        measurements=[measurement(speed, **changes) for speed in speeds],
    )


# devices


def test_another_device_has_no_share_of_the_machines_bandwidth() -> None:
    machines = [
        {"device": "cpu"},
        {"device": "AzureExecutionProvider", "provider_options": {"a": "1"}},
    ]
    pair = cases_of([DEMO_BUNDLES / "gpt2"], [None], LENGTHS, 1, machines)
    assert [case.name for case in pair] == ["gpt2", "gpt2 (AzureExecutionProvider)"]
    assert pair[0].workload.load_options == {"device": "cpu", "threads": 1}
    assert pair[1].workload.load_options == {**machines[1], "threads": 1}
    found = report(pair, [a_round(100.0, 200.0)], 1)
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


def test_rounds_measure_in_turns_and_report_in_order(cases: list[Case]) -> None:
    calls: list[str] = []

    def bandwidth() -> float:
        calls.append("bandwidth")
        return 1e9

    def measure(case: Case) -> dict[str, Any]:
        calls.append(case.name)
        return {"name": case.name}

    messages: list[str] = []
    rounds = list(
        measure_rounds(cases, 2, bandwidth=bandwidth, measure=measure, progress=messages.append)
    )
    assert calls == ["bandwidth", "gpt2", "t5", "bandwidth", "t5", "gpt2"]
    for item in rounds:
        assert [got["name"] for got in item.measurements] == ["gpt2", "t5"]
    assert messages[-1] == "round 2 of 2: gpt2"


# statistics


def test_statistics_of_several_values() -> None:
    assert statistics_of([5.0, 1.0, 2.0, 4.0, 3.0]) == {
        "median": 3.0,
        "min": 1.0,
        "max": 5.0,
        "quartile_1": 2.0,
        "quartile_3": 4.0,
    }


def test_statistics_of_one_value() -> None:
    assert set(statistics_of([7.0]).values()) == {7.0}


def test_nested_values_that_all_have_are_combined() -> None:
    values = [{"a": 1, "b": {"x": 2, "y": 3}, "c": None}, {"a": 10, "b": {"x": 20}, "c": 5}]
    assert over(sum, values) == {"a": 11, "b": {"x": 22}, "c": None}


def test_ratios_are_of_the_same_round(cases: list[Case]) -> None:
    rounds = [a_round(10, 20), a_round(100, 300), a_round(1000, 4000)]
    result = report(cases, rounds, 2)
    [ratios] = result["ratios_to_first"]
    assert ratios["name"] == "t5"
    assert ratios["tokens_per_s"]["32"]["median"] == 3
    assert (ratios["tokens_per_s"]["64"]["min"], ratios["tokens_per_s"]["64"]["max"]) == (2, 4)
    assert result["bundles"][0]["speed_to_first_context"]["64"]["median"] == 0.8


def test_share_is_of_the_same_rounds_read_bandwidth(cases: list[Case]) -> None:
    weights_gb = cases[0].manifest.weights_per_token_bytes / 1e9
    rounds = [a_round(50, read=2e9), a_round(50, read=4e9), a_round(50, read=1e9)]
    [item] = report(cases[:1], rounds, 2)["bundles"]
    assert item["gb_per_s"]["32"]["median"] == pytest.approx(50 * weights_gb, abs=1e-6)
    share = item["share_of_read_bandwidth"]["32"]
    figures = [share[name] for name in ("min", "median", "max")]
    assert figures == pytest.approx([50 * weights_gb / read for read in (4, 2, 1)], rel=1e-4)


# table


def table(cases: list[Case], *rounds: Round) -> list[str]:
    return list(lines(report(cases, rounds, 2)))


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


# the machine


@pytest.mark.parametrize("threads", [1, 3])
def test_read_bandwidth_is_a_rate(threads: int) -> None:
    assert 0 < read_bandwidth(threads, size_bytes=8 << 20, passes=2) < np.inf


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
