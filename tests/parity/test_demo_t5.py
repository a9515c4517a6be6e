"""The demo T5 of the package: right answers, and the checkpoint compared with Transformers.

The demo is INT8; its checkpoint exported to float32 generates what Transformers does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import T5ForConditionalGeneration

from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle.reading import Bundle
from tests.support.demos import assert_quantized_from

DEMO = Path(__file__).parents[2] / "demos" / "t5"
SOURCES = [
    "pronounce: algorithm",
    "pronounce: cat",
    "pronounce: Washington",
    "pronounce: zorblax",
    "spell: HH AH0 L OW1",
    "spell: K AE1 T",
    "pronounce: antidisestablishmentarianism",
    "something else",
]


@pytest.fixture(scope="module")
def exported(export_once: Callable[[Path], Bundle]) -> Model:
    """The demo's checkpoint, exported to float32."""
    return load(export_once(DEMO / "checkpoint").folder)


def test_it_pronounces(demo_t5: Model) -> None:
    texts = [result.text for result in demo_t5.generate(["pronounce: cat", "pronounce: table"])]
    assert texts == ["K AE1 T", "T EY1 B AH0 L"]


def test_it_spells(demo_t5: Model) -> None:
    texts = [result.text for result in demo_t5.generate(["spell: K AE1 T", "spell: B UH K"])]
    assert texts == ["cat", "book"]


@torch.no_grad()
def test_greedy_ids_are_those_of_transformers(exported: Model) -> None:
    reference = T5ForConditionalGeneration.from_pretrained(
        DEMO / "checkpoint", attn_implementation="eager"
    )
    reference = reference.float().eval()
    expected = []
    for source in SOURCES:
        ids = torch.tensor([exported.tokenizer.encode(source)])
        expected.append(reference.generate(ids, do_sample=False)[0, 1:].tolist())
    results = exported.generate(SOURCES)
    assert [list(result.token_ids) for result in results] == expected
    assert [result.finish_reason for result in results].count("eos") >= len(SOURCES) - 2
    assert [list(exported.generate(source)[0].token_ids) for source in SOURCES] == expected


def test_it_is_the_checkpoints_bundle_quantized(demo_t5: Model, exported: Model) -> None:
    assert_quantized_from(exported.bundle.manifest, demo_t5.bundle.manifest)


def test_it_answers_as_the_checkpoint_does(demo_t5: Model, exported: Model) -> None:
    pairs = zip(demo_t5.generate(SOURCES), exported.generate(SOURCES), strict=True)
    assert sum(ours.text == theirs.text for ours, theirs in pairs) >= len(SOURCES) - 1


def test_its_size_and_its_held_out_errors_are_as_asked() -> None:
    figures = json.loads((DEMO / "heldout.json").read_text(encoding="utf-8"))
    assert figures["words"] > 5000
    assert figures["pronounce"]["word_error_rate"] < 0.40
    assert figures["pronounce"]["phoneme_error_rate"] < 0.10
    with safe_open(DEMO / "checkpoint" / "model.safetensors", "pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert 2e6 <= parameters <= 6e6
