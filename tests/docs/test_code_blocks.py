"""The Python code in the README and the docs runs and prints what is shown below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeseq.runtime.tasks.templates import read_template
from tests.support.pages import PAGES, TUTORIAL, lay_out, name_of

# A block of code, and the block without a language that follows it, if there is one.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
TEMPLATE = re.compile(r"^```toml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and page != TUTORIAL], ids=name_of
)
def test_python_blocks_print_what_is_shown(
    page: Path,
    tmp_path: Path,
    bundle: Path,
    nllb: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(tmp_path, bundle, nllb)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code, shown in blocks(page):
        exec(compile(code, str(page), "exec"), names)
        printed = capsys.readouterr().out.strip()
        assert printed
        if shown:
            assert printed == shown.strip()


LANGUAGES = {"python", "py", "sh", "toml", "text", "json", ""}  # `py` is shown, not run


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_known_language(page: Path) -> None:
    fences = re.findall(r"^\s*```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {*fences[::2]} <= LANGUAGES
    assert {*fences[1::2]} <= {""}


def test_most_blocks_are_run() -> None:
    """Blocks of Python are shown without being run only where they need what is not here."""
    shown = [name_of(page) for page in PAGES if "```py\n" in page.read_text(encoding="utf-8")]
    assert shown == [
        *("docs/guides/app.md", "docs/guides/side-process.md", "docs/how-to/data-frames.md"),
        "docs/how-to/ray.md",
    ]
    assert sum(len(blocks(page)) for page in PAGES) > 45


def test_there_are_blocks() -> None:
    found = {name_of(page) for page in PAGES if any(shown for _, shown in blocks(page))}
    assert found >= {
        "README.md",
        "docs/get-started.md",
        "docs/guides/serve.md",
        "docs/how-to/constrained-output.md",
        "docs/how-to/decoding.md",
        "docs/how-to/pipelines.md",
        "docs/how-to/sessions.md",
        "docs/how-to/tasks.md",
        "docs/how-to/threads.md",
        "docs/how-to/translation.md",
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_templates_can_be_read(page: Path, tmp_path: Path) -> None:
    for block in TEMPLATE.findall(page.read_text(encoding="utf-8")):
        path = tmp_path / "template.toml"
        path.write_text(block, encoding="utf-8")
        assert read_template(path).forms
