"""The Python code in the README and the docs runs as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeseq.runtime.tasks.templates import read_template

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
TEMPLATE = re.compile(r"```toml\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_one_after_the_other(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), names)
        assert capsys.readouterr().out.strip()


def test_there_are_blocks() -> None:
    found = {page.name: len(BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert found["README.md"] >= 8
    assert found["pipelines.md"] and found["tasks.md"] and found["embedding.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_templates_can_be_read(page: Path, tmp_path: Path) -> None:
    for block in TEMPLATE.findall(page.read_text(encoding="utf-8")):
        path = tmp_path / "template.toml"
        path.write_text(block, encoding="utf-8")
        assert read_template(path).forms
