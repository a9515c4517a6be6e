"""The messages on the page of troubleshooting are messages of the program."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.pages import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
OF_OTHERS = {"No module named 'onnxruntime'", "pip check"}
QUOTED = [
    words
    for heading in re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    for words in re.findall(r"`([^`]+)`", heading)
    if " " in words and words not in OF_OTHERS
]


def messages() -> list[str]:
    """Return all texts in the sources; the values in them are "…"."""
    found = []
    for folder in ("batch", "cli", "export", "quantize", "runtime", "serving", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if id(node) in docstrings:
                    continue
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


MESSAGES = messages()


def test_messages_are_quoted() -> None:
    assert len(QUOTED) > 15


@pytest.mark.parametrize("words", QUOTED)
def test_a_quoted_message_exists(words: str) -> None:
    pattern = re.compile(".*".join(re.escape(part) for part in words.split("…")), re.DOTALL)
    assert any(pattern.search(message) for message in MESSAGES)
