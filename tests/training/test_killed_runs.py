"""Runs in processes of their own that are killed, also while they save, and then resumed."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeseq.training.trainer.checkpoints import MARKER
from tests.support.date_pairs import write_date_pairs
from tests.support.processes import poll
from tests.support.training_runs import run, tiny_template

STEPS = 60
CHANGES = {"trainer__max_steps": STEPS, "trainer__eval_steps": 6, "trainer__logging_steps": 1}
PROGRAM = """
import sys
from pathlib import Path
from tests.support.training_runs import run, tiny_template

changes = {"trainer__max_steps": 60, "trainer__eval_steps": 6, "trainer__logging_steps": 1}
data, out = map(Path, sys.argv[1:3])
run(tiny_template("t5-scratch", **changes), data, out, resume=out.exists())
"""
Moment = Callable[[Path], bool]


def digest(out: Path) -> str:
    return hashlib.sha256((out / "checkpoint" / "model.safetensors").read_bytes()).hexdigest()


def after_records(count: int) -> Moment:
    """Return when ``count`` more figures are recorded than at the first call."""
    first: list[int] = []

    def reached(out: Path) -> bool:
        path = out / "figures.jsonl"
        now = len(path.read_bytes().splitlines()) if path.is_file() else 0
        first.append(now)
        return now >= min(first) + count

    return reached


def while_saving(out: Path) -> bool:
    """Return whether a checkpoint is being written."""
    folders = list((out / "checkpoints").glob("checkpoint-*"))
    return any(not (folder / MARKER).exists() for folder in folders)


def killed_at(moment: Moment, data: Path, out: Path) -> bool:
    """Run until ``moment``, then kill the process; return whether it was still running."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(data), str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        poll(lambda: moment(out) or process.poll() is not None, limit_s=120)
        was_running = process.poll() is None
    finally:
        process.kill()
        _, error = process.communicate()
    assert was_running or (process.returncode, error) == (0, b"")
    return was_running


def resumes_alike(moments: list[Moment], folder: Path) -> None:
    data = write_date_pairs(folder / "pairs.jsonl", 120)
    template = tiny_template("t5-scratch", **CHANGES)
    run(template, data, folder / "straight")
    kills = [killed_at(moment, data, folder / "out") for moment in moments]
    assert any(kills)
    run(template, data, folder / "out", resume=True)
    assert digest(folder / "out") == digest(folder / "straight")


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    resumes_alike([after_records(9), while_saving], tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_five_times_resumes_to_the_same_weights(
    tmp_path: Path, seed: int
) -> None:
    generator = random.Random(seed)
    moments = [after_records(generator.randint(1, 12)) for _ in range(4)]
    moments.insert(generator.randint(0, 4), while_saving)
    resumes_alike(moments, tmp_path)
