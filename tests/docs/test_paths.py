"""Files and folders that documentation and docstrings name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "benchmarks",
    "cli",
    "demos",
    "docs",
    "examples",
    "export",
    "quantize",
    "runtime",
    "tests",
    "training",
)
NAMED = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`")
SOURCES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", *(f"{folder}/**/*.py" for folder in FOLDERS))
    for path in ROOT.glob(pattern)
    if NAMED.search(path.read_text(encoding="utf-8"))
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(source: Path) -> None:
    names = NAMED.findall(source.read_text(encoding="utf-8"))
    missing = [name for name in names if "NAME" not in name and not (ROOT / name).exists()]
    assert missing == []


def test_names_are_found() -> None:
    """The pattern finds names of files and folders."""
    assert NAMED.findall("see `runtime/model.py` and `docs/`; `edgeseq run`") == [
        "runtime/model.py",
        "docs/",
    ]
