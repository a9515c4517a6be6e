"""The demo model that comes with the package: trained weights, offline, readable text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GPT2LMHeadModel

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle import open_bundle
from edgeseq.runtime.demo_bundles import demo_bundle

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "demos" / "gpt2" / "checkpoint"
PROMPTS = ("Once upon a time,", "The princess opened the door", "A fox said:", "The dragon", "")


@pytest.fixture(scope="module")
def demo() -> Model:
    return load(verify=True)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_text_is_varied(demo: Model, seed: int) -> None:
    results = demo.generate(PROMPTS, max_new_tokens=128, seed=seed)
    texts = [words(result.text)[:60] for result in results if result.finish_reason == "length"]
    assert len(texts) >= 3
    assert all(len(set(text)) >= 0.6 * 60 for text in texts)
    assert len({tuple(text) for text in texts}) == len(texts)


def test_its_words_are_words(demo: Model) -> None:
    """Nearly all are among those of the prompts' and the tests' plain English."""
    text = demo.generate("Once upon a time,", max_new_tokens=128, seed=1)[0].text
    common = {"the", "and", "to", "of", "he", "she", "a", "in", "was", "said", "i", "you", "that"}
    assert sum(word in common for word in words(text)) > 0.2 * len(words(text))


def test_greedy_ids_are_those_of_transformers(
    demo: Model, greedy_ids: Callable[..., list[int]]
) -> None:
    reference = GPT2LMHeadModel.from_pretrained(CHECKPOINT, attn_implementation="eager").float()
    prompts = [demo.tokenizer.encode(text) for text in PROMPTS if text]
    options = {"repetition_penalty": 1.2}
    expected = [
        greedy_ids(reference.eval(), prompt, 64, top_p=None, temperature=None, **options)
        for prompt in prompts
    ]
    results = demo.generate_ids(prompts, max_new_tokens=64, do_sample=False, **options)
    assert [list(result.token_ids) for result in results] == expected


def test_it_is_the_checkpoints_bundle(tmp_path: Path) -> None:
    made = export_checkpoint(CHECKPOINT, tmp_path / "gpt2").manifest
    shipped = open_bundle(demo_bundle("gpt2")).manifest
    assert made.files["weights.bin"] == shipped.files["weights.bin"]
    assert made.files["tokenizer.json"] == shipped.files["tokenizer.json"]
    assert made.generation == shipped.generation
    assert made.dimensions == shipped.dimensions


def test_its_size_and_its_held_out_loss_are_as_asked() -> None:
    figures = json.loads((ROOT / "demos" / "gpt2" / "heldout.json").read_text(encoding="utf-8"))
    assert figures["bits_per_byte"] < 1.8
    files = [*demo_bundle("gpt2").rglob("*"), *(ROOT / "demos" / "gpt2").glob("*.*")]
    files += CHECKPOINT.rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) < 25e6
