"""The shell commands in the README and the docs run as they are.

Where they name a checkpoint of the Hub there is a folder of that name, with the checkpoint of a
demo model. ``pip install`` and this test run itself are left out: who runs this has done both. The
GPU that one of them verifies has a stand-in.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
UNMARKED = re.compile(r"^```\n(?:edgeseq|python) ", re.MULTILINE)
FOLDERS = {
    "gpt2": "demos/gpt2/checkpoint",
    "distilgpt2": "demos/gpt2/checkpoint",
    "t5-small": "demos/t5/checkpoint",
    "my-t5": "runtime/bundle/demos/t5",
    "benchmarks": "benchmarks",
}
TALE = "Once upon a time there was a king who had three sons. The youngest was called a fool. " * 40
PAIRS = "pronounce: fox\tF AA1 K S\nspell: K AE1 T\tcat\npronounce: king\tK IH1 NG\n"
FILES = {
    "text.txt": TALE,
    "wikitext2-test.txt": TALE,
    "newstest2013.en-de.tsv": PAIRS * 4,
    "newstest2014.en-de.tsv": PAIRS,
    "article.txt": "The king went home.",
    "articles.txt": "The king went home.\nThe fox stayed.\n",
    "beginnings.txt": "The king\nThe fox\n",
}
BEGIN = """set -euo pipefail
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
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name
)
def test_commands_run_one_after_the_other(page: Path, tmp_path: Path, bundle: Path) -> None:
    folders = {name: ROOT / source for name, source in FOLDERS.items()}
    for name, source in {**folders, "my-fp32-bundle": bundle}.items():
        (tmp_path / name).symlink_to(source, target_is_directory=True)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_commands_are_left_out(page: Path) -> None:
    assert UNMARKED.search(page.read_text(encoding="utf-8")) is None


def test_there_are_blocks() -> None:
    assert {page.name: len(blocks(page)) for page in PAGES if blocks(page)} == {
        "README.md": 9,
        "devices.md": 2,
        "quantization.md": 2,
        "tasks.md": 2,
    }
