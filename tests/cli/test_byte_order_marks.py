"""A byte order mark before a text changes nothing, wherever a text is read."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli.command_line import main
from edgeseq.export.checkpoint.reading import read_json
from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.text.input_lines import split_lines
from edgeseq.serving.fields import read_object
from tests.support.commands import Captured

MARK = "\ufeff"
GREEDY = ("--no-do-sample", "--max-new-tokens", "8")
PROMPT = "The king"


@pytest.fixture
def printed(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``printed(*arguments, given=TEXT)``: what a command prints; TEXT is its standard input."""

    def run(*arguments: str, given: str = "") -> str:
        stream = io.TextIOWrapper(io.BytesIO(given.encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stream)
        assert main([*arguments]) == 0
        return capsys.readouterr().out

    return run


def test_the_prompt(printed: Callable[..., str], demo_gpt2: Model) -> None:
    expected = printed("generate", PROMPT, *GREEDY)
    assert expected == demo_gpt2.generate(PROMPT, max_new_tokens=8, do_sample=False)[0].text + "\n"
    assert printed("generate", MARK + PROMPT, *GREEDY) == expected
    assert printed("generate", *GREEDY, given=MARK + PROMPT + "\n") == expected
    assert printed("generate", "-", *GREEDY, given=MARK + PROMPT) == expected


def test_the_text_of_a_task(printed: Callable[..., str]) -> None:
    expected = printed("run", "completion", PROMPT, *GREEDY)
    assert printed("run", "completion", MARK + PROMPT, *GREEDY) == expected
    assert printed("run", "completion", *GREEDY, given=MARK + PROMPT) == expected
    assert printed("run", "completion", "--field", f"text={MARK}{PROMPT}", *GREEDY) == expected


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_the_lines_of_a_file(printed: Callable[..., str], tmp_path: Path, suffix: str) -> None:
    def lines(mark: str) -> list[Any]:
        items = [json.dumps({"text": PROMPT}) if suffix == ".jsonl" else PROMPT] * 2
        path = tmp_path / f"in{suffix}"
        path.write_bytes("\r\n".join(mark + item for item in items).encode())  # joined files
        out = printed("run", "completion", "--input", str(path), "--output", "-", *GREEDY)
        return [json.loads(line) for line in out.splitlines()]

    assert lines(MARK) == lines("")


def test_lines_keep_marks_inside() -> None:
    assert split_lines(f"{MARK}a\n{MARK}b{MARK}\r\nc{MARK}d\n") == ["a", f"b{MARK}", f"c{MARK}d"]


def test_files_of_options(printed: Callable[..., str], tmp_path: Path) -> None:
    for flag, content in (
        ("--json-schema", '{"type": "boolean"}'),
        ("--grammar", 'start: " yes" | " no"'),
    ):
        path = tmp_path / "rules"
        found = []
        for mark in ("", MARK):
            path.write_text(mark + content, encoding="utf-8")
            found.append(printed("generate", PROMPT, *GREEDY, flag, str(path)))
        assert found[0] == found[1]


def test_templates_and_manifests(printed: Callable[..., str], tmp_path: Path) -> None:
    template = tmp_path / "mine.toml"
    printed("tasks", "completion", "--copy", str(template))
    template.write_bytes(MARK.encode() + template.read_bytes())
    expected = printed("run", "completion", PROMPT, *GREEDY)
    assert printed("run", str(template), PROMPT, *GREEDY) == expected
    folder = tmp_path / "bundle"
    shutil.copytree(demo_bundle("gpt2"), folder)
    manifest = folder / "edgeseq.json"
    manifest.write_bytes(MARK.encode() + manifest.read_bytes())
    with load(folder, verify=True) as model:
        found = model.run("completion", PROMPT, max_new_tokens=8, do_sample=False)
    assert not isinstance(found, list)
    assert found.text + "\n" == expected


def test_requests_and_checkpoints(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(MARK + '{"model_type": "gpt2"}', encoding="utf-8")
    assert read_json(config) == {"model_type": "gpt2"}
    assert read_object((MARK + '{"prompt": "a"}').encode()) == {"prompt": "a"}
