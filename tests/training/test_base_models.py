"""training/models.py: tokenizers of others, which may have been made to attack."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseq.runtime.errors import CheckpointError
from edgeseq.training.models import load_tokenizer
from tests.support.checkpoints import byte_level_tokenizer
from tests.support.errors import refusal
from tests.support.files import edit_json


def with_templates(folder: Path, *names: str) -> None:
    byte_level_tokenizer().save_pretrained(folder)
    templates = [{"name": name, "template": "{{ messages }}"} for name in names]
    edit_json(folder / "tokenizer_config.json", chat_template=templates)


@pytest.mark.parametrize(
    "name",
    ["../escaped", "/escaped", "a/b", "..\\escaped", "C:\\escaped", "C:escaped", "a\nb"],
)
def test_a_chat_template_is_never_written_outside_the_folder(name: str, tmp_path: Path) -> None:
    """Transformers before 5.10 would write it there (CVE-2026-9856)."""
    with_templates(tmp_path, "default", name)
    message = refusal(CheckpointError, lambda: load_tokenizer(tmp_path), match="unsafe name")
    assert repr(name) in message


def test_chat_templates_with_plain_names_are_kept(tmp_path: Path) -> None:
    with_templates(tmp_path / "in", "default", "tool_use")
    tokenizer = load_tokenizer(tmp_path / "in")
    tokenizer.save_pretrained(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").chat_template.keys() == {"default", "tool_use"}
