"""Checkpoints with an adapter beside the model, with peft and without it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgeseq.export import CheckpointError, export_checkpoint
from edgeseq.export.checkpoint import adapters
from edgeseq.runtime import load
from tests.support.checkpoints import byte_level_tokenizer, greedy_ids, seeded_gpt2
from tests.support.errors import refusal
from tests.support.files import assert_nothing_written

RANK, SCALE = 2, 3.0
ADAPTED = "attn.c_attn"
PROMPTS = [[5, 6, 7], [100], [1, 2, 3]]


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[Path, Any]:
    """A GPT-2 with a LoRA adapter beside it, and the model with the adapter merged by hand."""
    folder = tmp_path / "checkpoint"
    model = seeded_gpt2()
    model.save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer, block in enumerate(model.transformer.h):
        down = 0.5 * torch.randn(RANK, 48, generator=generator)
        up = 0.5 * torch.randn(144, RANK, generator=generator)
        name = f"base_model.model.transformer.h.{layer}.{ADAPTED}"
        weights |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        block.attn.c_attn.weight.data += SCALE / RANK * (up @ down).T
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "somewhere/else",
        "r": RANK,
        "lora_alpha": SCALE,
        "fan_in_fan_out": True,
        "target_modules": ["c_attn"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder, model


def test_adapter_needs_peft(
    adapted: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    refusal(
        CheckpointError,
        lambda: export_checkpoint(adapted[0], tmp_path / "bundles" / "out"),
        match="adapter.*install peft, or merge it",
    )
    assert_nothing_written(tmp_path / "bundles" / "out")


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_adapter_is_merged(adapted: tuple[Path, Any], tmp_path: Path) -> None:
    folder, merged = adapted
    model = load(export_checkpoint(folder, tmp_path / "bundles" / "out").folder, threads=1)
    for prompt in PROMPTS:
        [result] = model.generate_ids([prompt], max_new_tokens=12)
        assert list(result.token_ids) == greedy_ids(merged, prompt, 12)
