"""Rounds of measurements: each round measures every case once, in a fresh process.

A disturbance of the machine usually lasts longer than one measurement. Therefore each round runs
all cases, every other round in reverse order, and figures of the same round can be compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile
from typing import Any

from ..errors import EdgeseqError
from .case import Case
from .machine import DISTURBED, BusiestPrograms, OthersClock, resident_bytes
from .worker import LOADED, megabytes

WORKER = "edgeseq.runtime.bench.worker"

Measurement = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Round:
    """The measurements of one round, each in the order of the cases."""

    read_bytes_per_s: Sequence[float]  # read bandwidth with the size of each case's weights
    measurements: Sequence[Measurement]
    other_cpu_shares: Sequence[float | None]  # shares of all processors that others used meanwhile
    busiest: Mapping[str, float]  # other programs, and the number of cores that each used


def measure_rounds(
    cases: Sequence[Case],
    count: int,
    *,
    bandwidth: Callable[[Case], float],
    measure: Callable[[Case], Measurement],
    progress: Callable[[str], None],
    retries: int = 0,
    clock: Callable[[], OthersClock] = OthersClock,
) -> Iterator[Round]:
    """Yield ``count`` rounds: each measures the ``bandwidth`` first, then every case once.

    A measurement that other programs disturbed is repeated up to ``retries`` times; the one with
    the least use by others counts.
    """
    for number in range(count):
        programs = BusiestPrograms()
        progress(f"round {number + 1} of {count}: read bandwidth")
        reads: dict[tuple[int, int], float] = {}
        for case in cases:
            if case.reads not in reads:
                reads[case.reads] = bandwidth(case)
        found: dict[int, tuple[Measurement, float | None]] = {}
        for index in turns(len(cases), number):
            case = cases[index]
            what = f"round {number + 1} of {count}: {case.name}"
            progress(what)
            best = _measured(case, measure, clock)
            for _ in range(retries):
                if not is_disturbed(best[1]):
                    break
                progress(f"{what}, again, because other programs used the processors")
                best = min(best, _measured(case, measure, clock), key=_use)
            found[index] = best
        yield Round(
            read_bytes_per_s=[reads[case.reads] for case in cases],
            measurements=[found[index][0] for index in range(len(cases))],
            other_cpu_shares=[found[index][1] for index in range(len(cases))],
            busiest=programs.cores(),
        )


def _measured(
    case: Case, measure: Callable[[Case], Measurement], clock: Callable[[], OthersClock]
) -> tuple[Measurement, float | None]:
    others = clock()
    measurement = measure(case)
    return measurement, others.share()


def _use(measured: tuple[Measurement, float | None]) -> float:
    return measured[1] or 0.0


def is_disturbed(share: float | None) -> bool:
    """Return whether other programs used so much of the processors that a measurement suffers."""
    return share is not None and share > DISTURBED


def turns(cases: int, round_number: int) -> list[int]:
    """Return the order of the cases in a round: every other round is reversed."""
    return list(range(cases))[:: -1 if round_number % 2 else 1]


def measure_in_process(case: Case) -> Measurement:
    """Measure a case in a fresh process, which is killed if this call is interrupted.

    Raises ``EdgeseqError`` with the error that the process reports, or else with the last line of
    its standard error, and in a frozen app, which has no Python to start.
    """
    if getattr(sys, "frozen", False):
        raise EdgeseqError(
            "A frozen app cannot measure, because it has no Python interpreter to start: use an "
            "installation of edgeseq."
        )
    # -P: import nothing from the current folder, like the `edgeseq` command.
    command = [sys.executable, "-P", "-m", WORKER, json.dumps(asdict(case.workload))]
    command.append(str(os.getpid()))
    resident, last = None, ""
    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = line
                if line.strip() == LOADED:
                    # From outside, because psutil in that process would count as its memory.
                    resident = resident_bytes(process.pid)
                    with suppress(BrokenPipeError):  # it has ended, which is reported below
                        os.write(process.stdin.fileno(), b"\n")
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        errors.seek(0)
        err = errors.read()
    result = _object(last)
    if "error" in result:
        raise EdgeseqError(f"{case.name}: {result['error']}")
    if process.returncode != 0 or not result:
        *_, words = err.strip().splitlines() or ["without an error message"]
        raise EdgeseqError(
            f"The process that measured {case.name} ended with status {process.returncode} "
            f"({words}): check that `edgeseq generate --bundle {case.workload.folder}` works."
        )
    return {**result, "resident_after_load_mb": megabytes(resident)}


def _object(line: str) -> dict[str, Any]:
    """Return the JSON object in ``line``, or an empty one if it is not a JSON object."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
