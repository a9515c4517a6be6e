"""Rounds of measurements: each round measures every case once, in a fresh process.

A disturbance of the machine usually lasts longer than one measurement. Therefore each round runs
all cases, every other round in reverse order, and figures of the same round can be compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile
from typing import Any

from ..errors import EdgeseqError
from .case import Case
from .machine import OthersClock, resident_bytes
from .worker import LOADED, megabytes

WORKER = "edgeseq.runtime.bench.worker"

Measurement = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Round:
    """The measurements of one round."""

    read_bytes_per_s: float  # the machine's read bandwidth
    other_cpu_share: float | None  # share of all processors that other programs used meanwhile
    measurements: Sequence[Measurement]  # in the order of the cases


def measure_rounds(
    cases: Sequence[Case],
    count: int,
    *,
    bandwidth: Callable[[], float],
    measure: Callable[[Case], Measurement],
    progress: Callable[[str], None],
) -> Iterator[Round]:
    """Yield ``count`` rounds: each measures the ``bandwidth`` first, then every case once."""
    for number in range(count):
        others = OthersClock()
        progress(f"round {number + 1} of {count}: read bandwidth")
        read_bytes_per_s = bandwidth()
        measurements: dict[int, Measurement] = {}
        for index in turns(len(cases), number):
            progress(f"round {number + 1} of {count}: {cases[index].name}")
            measurements[index] = measure(cases[index])
        yield Round(
            read_bytes_per_s=read_bytes_per_s,
            other_cpu_share=others.share(),
            measurements=[measurements[index] for index in range(len(cases))],
        )


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
