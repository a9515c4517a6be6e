"""The tutorial `docs/guides/train.md`: all of its blocks run, one after the other, in one folder.

Runs are cut after a few steps, so that the models learn nothing; `-m nightly` trains the first one
as the page says, and holds it against the page's claim.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from edgeseq.cli.command_line import main
from tests.support.commands import Captured
from tests.support.pages import TUTORIAL, lay_out

BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n(?:\n```\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| `(.*?)`(?:, `(.*?)`)? \|", re.MULTILINE)  # of a table of files
SHORTER = (
    "--trainer.max_steps 2 --trainer.per_device_train_batch_size 8 --trainer.eval_steps 2 "
    "--trainer.eval_answers 4 --threads 1"
)


def blocks() -> list[tuple[str, str, str]]:
    """Return the language, the code and the shown output of each block."""
    return BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))


def run(language: str, code: str, shorter: str) -> None:
    """Run a block; ``shorter``: options that ``edgeseq train`` is given besides."""
    if language == "python":
        exec(compile(code, str(TUTORIAL), "exec"), {"__name__": "__main__"})
        return
    for line in code.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "python":
            assert arguments[:3] == ["-m", "pip", "install"]
            continue
        assert program == "edgeseq"
        if arguments[0] == "train" and "--data" in arguments:
            arguments += shorter.split()
        assert main(arguments) == 0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, bundle: Path, nllb: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which checkpoints of demos stand for those of the Hub."""
    lay_out(tmp_path, bundle, nllb)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_runs(folder: Path, capsys: Captured) -> None:
    for language, code, shown in blocks():
        run(language, code, SHORTER)
        printed = capsys.readouterr().out
        if shown:
            assert printed.strip() == shown.strip()
    rows = ROW.findall(TUTORIAL.read_text(encoding="utf-8"))
    files = {name.rstrip("/") for row in rows for name in row}
    made = {path.name for out in ("commands", "lora") for path in (folder / out).iterdir()}
    assert {name for name in made if not name.startswith(".")} <= files


@pytest.mark.nightly
def test_the_first_model_learns(capsys: Captured) -> None:
    for language, code, _ in blocks()[:3]:
        run(language, code, "")
    capsys.readouterr()
    run("sh", "edgeseq eval commands/bundle commands/held_out.jsonl --json", "")
    assert json.loads(capsys.readouterr().out)["exact_match"] >= 0.9


def test_the_tutorial_has_its_steps() -> None:
    text = "".join(code for _, code, _ in blocks())
    for part in ("edgeseq train", "edgeseq run", "edgeseq eval", "--resume", "load(", "train("):
        assert part in text
