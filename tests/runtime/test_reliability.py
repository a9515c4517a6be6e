"""Damaged bundles, and runs that are long: scripts of ``benchmarks/reliability``, made small.

``-m nightly`` runs more of both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts need Linux")


def run(module: str, *arguments: object) -> dict[str, Any]:
    """Run a script, which must keep its promises; return its figures."""
    command = [sys.executable, "-m", f"benchmarks.reliability.{module}", *map(str, arguments)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    figures: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def test_damaged_bundles_give_text_or_one_sentence(tmp_path: Path) -> None:
    found = run("mutations", "--count", 60, "--demos", "--workers", 1, "--work", tmp_path)
    assert (found["cases"], found["broken"]) == (60, 0)


@pytest.mark.nightly
def test_damaged_bundles_of_all_families_give_text_or_one_sentence(tmp_path: Path) -> None:
    found = run("mutations", "--count", 2000, "--seed", 1, "--work", tmp_path)
    assert (found["cases"], found["broken"]) == (2000, 0)


def test_texts_and_resources_stay_the_same_over_many_calls() -> None:
    # Memory grows until each kind of call was made a few times, so its limit is wide here.
    found = run("long_run", "--generations", 200, "--loads", 20, "--limit", 150)
    assert found["generations"]["texts_that_differ"] == found["loads"]["texts_that_differ"] == 0
    assert found["generations"]["count"] == 200


@pytest.mark.nightly
def test_memory_is_flat_over_thousands_of_calls() -> None:
    run("long_run", "--generations", 10_000, "--loads", 1000)
