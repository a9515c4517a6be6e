"""The scripts of benchmarks/reliability: few trials of each, which keep all promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT

SCRIPTS = {
    "kills": ["--moments", "20"],
    "full_disk": ["--points", "2"],
    "read_only": [],
    "writers": ["--times", "2"],
    "network": [],
}
TIME_LIMIT_S = 900
FOLDER = ROOT / "benchmarks" / "reliability"
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_the_page_names_every_script_that_exists() -> None:
    named = set(re.findall(r"python -m benchmarks\.reliability\.(\w+)", PAGE))
    scripts = {path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text("utf-8")}
    assert named == scripts


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="the scripts are for Linux")
@pytest.mark.parametrize("name", SCRIPTS)
def test_all_promises_are_kept(name: str, tmp_path: Path) -> None:
    if name in ("read_only", "network") and os.geteuid() != 0:
        pytest.skip("needs root")
    command = [sys.executable, "-m", f"benchmarks.reliability.{name}", *SCRIPTS[name]]
    done = subprocess.run(
        [*command, "--work", str(tmp_path)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("No broken promises.\n")
