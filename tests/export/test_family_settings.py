"""Settings of the families besides GPT-2 and T5 that cannot be exported are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeseq.export import CheckpointError, export_checkpoint
from tests.support.checkpoints import unigram_tokenizer
from tests.support.family_checkpoints import seeded_model


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        pytest.param(
            "gptj-0", {"rotary_dim": None}, "rotary_dim is None", id="gptj, no rotary_dim"
        ),
        pytest.param("gptj-0", {"rotary_dim": 5}, "rotary_dim is 5", id="gptj, odd rotary_dim"),
        pytest.param(
            "gptj-0", {"rotary_dim": 18}, r"n_embd / n_head = 16", id="gptj, large rotary_dim"
        ),
        pytest.param("gptj-0", {"n_head": 5}, "multiple of n_head", id="gptj, heads"),
    ],
)
def test_setting_is_refused(
    name: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    seeded_model(name).save_pretrained(folder)
    unigram_tokenizer().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | settings), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(folder, tmp_path / "bundle")
