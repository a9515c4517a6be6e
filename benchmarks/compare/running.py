"""Rounds of measurements, written as JSON lines as they are made."""

from __future__ import annotations

import json
import platform
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.compare.environments import installed_mb
from benchmarks.compare.machine import describe_machine
from benchmarks.compare.measuring import Entry, measure_once, measured
from benchmarks.compare.models import Workplace
from benchmarks.compare.peers import REPOSITORY, Peer
from benchmarks.compare.preparing import Failure, Turn, entries, prepare
from benchmarks.compare.workloads import Bits, Workload
from edgeseq.runtime.bench.machine import read_bandwidth


def run(
    peers: Sequence[Peer],
    workloads: Sequence[Workload],
    place: Workplace,
    *,
    rounds: int,
    threads: int,
    bits: Sequence[Bits],
    out: Path,
) -> list[Failure]:
    """Install, convert, then measure ``rounds`` times, the entries of a workload taking turns.

    The first line of ``out`` says what the machine is; then one line an obstacle, an installed
    size, a measurement. What is there already is kept: a run that was cut off is given again with
    the same file to append further rounds. Returns what could not be set up.
    """
    turns, failures = prepare(peers, workloads, place, bits)
    fill_caches(turns, place, threads)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        write(file, {"kind": "run", "at": now(), "threads": threads, **context()})
        for line in fixed_lines(peers, turns, failures, place):
            write(file, line)
        for number in range(rounds):
            for workload, b, them in turns:
                print(f"round {number + 1} of {rounds}: {workload.name} {b}", flush=True)
                measure_turn(file, number, workload, b, them, place, threads)
    return failures


def fill_caches(turns: Sequence[Turn], place: Workplace, threads: int) -> None:
    """Let the entries that keep files for their next start write them, once a model."""
    firsts: dict[tuple[str, str], tuple[Entry, Workload]] = {}
    for workload, _, them in turns:
        for entry in them:
            if entry.form.keeps_files:
                firsts.setdefault((entry.name, workload.model), (entry, workload))
    for entry, workload in firsts.values():
        result = measure_once(entry, workload, place, threads)
        if "error" in result:
            print(f"{entry.name}, {workload.model}: {result['error']}", flush=True)


def fixed_lines(
    peers: Sequence[Peer],
    turns: Sequence[Turn],
    failures: Sequence[Failure],
    place: Workplace,
) -> Iterator[dict[str, Any]]:
    """What does not change from round to round."""
    for peer in peers:
        if peer.name not in [failure.entry for failure in failures]:
            size = installed_mb(place.environment(peer.name))
            yield {"kind": "installed", "entry": peer.name, "mb": round(size, 1)}
        for workload, bits, _ in turns:
            which = {"kind": "cannot", "workload": workload.name, "bits": bits}
            if reason := peer.obstacle(workload, bits):
                yield {**which, "entry": peer.name, "reason": reason}
                continue
            names = [peer.name, *(entry.name for entry in entries([peer], workload, bits))]
            for failure in failures:
                if failure.entry in names and failure.model in ("", workload.model):
                    yield {**which, "entry": failure.entry, "reason": failure.reason}


def measure_turn(
    file: TextIO,
    number: int,
    workload: Workload,
    bits: Bits,
    them: Sequence[Entry],
    place: Workplace,
    threads: int,
) -> None:
    """Measure every entry once, in an order that changes from round to round.

    Before them how fast memory is read: on a machine that others share that changes by the minute.
    """
    which = {"workload": workload.name, "bits": bits, "round": number}
    gb_per_s = round(read_bandwidth(threads) / 1e9, 2)
    write(file, {"kind": "bandwidth", "at": now(), **which, "gb_per_s": gb_per_s})
    for entry in random.Random(f"{number} {workload.name}").sample(them, len(them)):
        result = measured(entry, workload, place, threads)
        write(file, {"kind": "measurement", "at": now(), "entry": entry.name, **which, **result})
        if "error" in result:
            print(f"  {entry.name}: {result['error']}", flush=True)


def context() -> dict[str, Any]:
    """The machine and the state of the repository."""
    git = ["git", "-C", str(REPOSITORY)]
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=False, capture_output=True, text=True
    )
    return {
        "machine": describe_machine(),
        "system": platform.platform(),
        "commit": commit.stdout.strip() or None,
    }


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(file: TextIO, line: dict[str, Any]) -> None:
    """Append a line at once: a run that is cut off keeps what it measured."""
    file.write(json.dumps(line) + "\n")
    file.flush()
