"""One measurement: a program in its own process, and what else the machine did meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.environments import packages_of, python_of
from benchmarks.compare.models import Workplace
from benchmarks.compare.peers import Format, Peer
from benchmarks.compare.workloads import VOCABULARY, Workload
from edgeseq.runtime.bench.machine import OthersClock
from edgeseq.runtime.ort.cpu import logical_cores

HARNESS = Path(__file__).with_name("harness.py")
TIMEOUT_S = 600
# What other processes may take of a core, on average. More, and a measurement is made again:
# programs that wait for all of their threads slow down by far more than that share.
QUIET_SHARE = 0.10
ATTEMPTS = 4
SETTLE_S = 0.3  # between two measurements


@dataclass(frozen=True)
class Entry:
    """A program with a form of its weights: a row of a table."""

    peer: Peer
    form: Format

    @property
    def name(self) -> str:
        """As results name it."""
        return f"{self.peer.name}/{self.form.name}"


def measured(entry: Entry, workload: Workload, place: Workplace, threads: int) -> dict[str, Any]:
    """The measurement of ``entry`` on ``workload``, made again while the machine is not quiet.

    ``others_cpu`` is the share of a core that everything else used; where no attempt was quiet
    ``disturbed`` is true.
    """
    for _ in range(ATTEMPTS):
        result = measure_once(entry, workload, place, threads)
        if "error" in result or result["others_cpu"] <= QUIET_SHARE:
            break
        time.sleep(2.0)
    else:
        result["disturbed"] = True
    return result


def measure_once(
    entry: Entry, workload: Workload, place: Workplace, threads: int
) -> dict[str, Any]:
    """One process; its output, or ``error`` with a sentence."""
    model = place.model(entry.peer, workload.model, entry.form)
    environment = place.environment(entry.peer.name)
    if workload.cold_files:
        forget_files([model, *packages_of(environment), place.folder / "cache"])
    job = {
        "model": os.fspath(model),
        "format": entry.form.name,
        "threads": threads,
        "vocabulary": VOCABULARY[workload.model],
        "workload": workload.job(),
    }
    time.sleep(SETTLE_S)
    clock = OthersClock()
    job["started"] = time.time()
    try:
        done = subprocess.run(
            command(entry.peer, environment, json.dumps(job)),
            check=False,
            cwd=environment,
            env=variables(environment, place.folder, threads),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {TIMEOUT_S} s"}
    others = (clock.share() or 0.0) * logical_cores()
    return {**last_line(done), "others_cpu": round(others, 4)}


def command(peer: Peer, environment: Path, job: str) -> list[str]:
    """What is run."""
    if peer.runner == "node":
        return ["node", os.fspath(peer.folder / "adapter.mjs"), job]
    adapter = os.fspath(peer.folder / "adapter.py")
    return [python_of(environment), "-P", os.fspath(HARNESS), adapter, job]


def variables(environment: Path, folder: Path, threads: int) -> dict[str, str]:
    """Environment variables: offline, as many threads as asked for wherever one decides.

    What programs keep for their next start goes into ``folder``.
    """
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        **{name: str(count) for name, count in counts.items()},
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": os.fspath(folder / "cache"),
        "TOKENIZERS_PARALLELISM": "false",
        "EDGESEQ_BENCH_MODULES": os.fspath(environment / "node_modules"),
    }


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object that a measurement printed last."""
    lines = done.stdout.splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        found = None
    if isinstance(found, dict):
        return found
    tail = " ".join(done.stderr.splitlines()[-3:])
    try:
        ended = f"ended by {signal.Signals(-done.returncode).name}"  # such as SIGILL
    except ValueError:
        ended = f"ended with status {done.returncode}"
    return {"error": f"{ended}: {tail}"}


def forget_files(folders: Iterable[Path]) -> None:
    """Ask the system to drop the files in ``folders`` from its page cache."""
    if sys.platform == "linux":
        os.sync()
        for folder in folders:
            for path in folder.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    else:
        sys.exit("A cold start needs a system that can forget files: it works on Linux only.")
