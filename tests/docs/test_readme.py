"""The README stays short, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
FILES += [*ROOT.glob("benchmarks/*.md"), *ROOT.glob("demos/*/README.md")]


def test_the_readme_can_be_read_in_a_minute() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    assert len(text.split()) <= 1100


@pytest.mark.parametrize("page", FILES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    """Links of the docs are checked when the site is built; these files are not part of it."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
