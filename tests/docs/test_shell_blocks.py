"""The shell commands in the README and the docs run as they are.

``pip install`` and the test command are left out: whoever runs this has run both. A stand-in
replaces the GPU that one of them verifies.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import FOLDERS, PAGES, ROOT, TUTORIAL, lay_out, name_of

SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
UNMARKED = re.compile(r"^```\n(?:edgeseq|python) ", re.MULTILINE)
BEGIN = """set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
python() {
    case "$*" in
        "-m pip install "* | "-m pytest") ;;
        benchmarks/verify_device.py*) command python "$@" --stand-in ;;
        *) command python "$@" ;;
    esac
}
"""


def blocks(page: Path) -> list[str]:
    return SHELL.findall(page.read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are for a POSIX shell")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and page != TUTORIAL], ids=name_of
)
def test_commands_run_one_after_the_other(
    page: Path, tmp_path: Path, bundle: Path, nllb: Path
) -> None:
    lay_out(tmp_path, bundle, nllb)
    (tmp_path / "fine-tuned").symlink_to(ROOT / FOLDERS["gpt2"], target_is_directory=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", BEGIN + "".join(blocks(page))],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_commands_are_left_out(page: Path) -> None:
    assert UNMARKED.search(page.read_text(encoding="utf-8")) is None


def test_there_are_blocks() -> None:
    assert {name_of(page) for page in PAGES if blocks(page)} >= {
        "README.md",
        "docs/get-started.md",
        "docs/guides/compare.md",
        "docs/guides/files.md",
        "docs/guides/own-model.md",
        "docs/guides/serve.md",
        "docs/how-it-works/quantization.md",
        "docs/how-to/devices.md",
        "docs/how-to/tasks.md",
        "docs/how-to/translation.md",
    }
