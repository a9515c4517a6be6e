"""The demo GPT-2 of the package: readable text, and the checkpoint compared with Transformers.

The demo is INT8; its checkpoint exported to float32 generates what Transformers does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GPT2LMHeadModel

from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.evaluation.losses import compare
from edgeseq.runtime.request.passages import text_windows
from tests.support.demos import assert_quantized_from

ROOT = Path(__file__).parents[2]
CALIBRATION = ROOT / "quantize" / "calibration.txt"
CHECKPOINT = ROOT / "demos" / "gpt2" / "checkpoint"
PROMPTS = ("Once upon a time,", "The princess opened the door", "A fox said:", "The dragon", "")


@pytest.fixture(scope="module")
def exported(export_once: Callable[[Path], Bundle]) -> Model:
    """The demo's checkpoint, exported to float32."""
    return load(export_once(CHECKPOINT).folder)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_text_is_varied(demo_gpt2: Model, seed: int) -> None:
    results = demo_gpt2.generate(PROMPTS, max_new_tokens=128, seed=seed)
    texts = [words(result.text)[:60] for result in results if result.finish_reason == "length"]
    assert len(texts) >= 3
    assert all(len(set(text)) >= 0.6 * 60 for text in texts)
    assert len({tuple(text) for text in texts}) == len(texts)


def test_its_text_is_english(demo_gpt2: Model) -> None:
    """More than a fifth of the words are very common ones."""
    text = demo_gpt2.generate("Once upon a time,", max_new_tokens=128, seed=3)[0].text
    common = {"the", "and", "to", "of", "he", "she", "a", "in", "was", "said", "i", "you", "that"}
    assert sum(word in common for word in words(text)) > 0.2 * len(words(text))


def test_greedy_ids_are_those_of_transformers(
    exported: Model, greedy_ids: Callable[..., list[int]]
) -> None:
    reference = GPT2LMHeadModel.from_pretrained(CHECKPOINT, attn_implementation="eager").float()
    prompts = [exported.tokenizer.encode(text) for text in PROMPTS if text]
    options = {"repetition_penalty": 1.2}
    expected = [
        greedy_ids(reference.eval(), prompt, 64, top_p=None, temperature=None, **options)
        for prompt in prompts
    ]
    results = exported.generate_ids(prompts, max_new_tokens=64, do_sample=False, **options)
    assert [list(result.token_ids) for result in results] == expected


def test_it_is_the_checkpoints_bundle_quantized(demo_gpt2: Model, exported: Model) -> None:
    assert_quantized_from(exported.bundle.manifest, demo_gpt2.bundle.manifest)


def test_it_predicts_as_the_checkpoint_does(demo_gpt2: Model, exported: Model) -> None:
    text = CALIBRATION.read_text(encoding="utf-8")[-9000:]
    windows = text_windows(demo_gpt2.tokenizer.encode(text), 512, 512)
    compared = compare(exported.new_decoder, demo_gpt2.new_decoder, windows)
    assert compared.candidate.tokens > 2000
    assert abs(compared.perplexity_rise) < 0.01
    assert compared.top1_agreement > 0.94
    assert compared.kl_divergence < 0.005


def test_its_size_and_its_held_out_loss_are_as_asked() -> None:
    figures = json.loads((ROOT / "demos" / "gpt2" / "heldout.json").read_text(encoding="utf-8"))
    assert figures["bits_per_byte"] < 1.8
    files = [*demo_bundle("gpt2").rglob("*"), *(ROOT / "demos" / "gpt2").glob("*.*")]
    files += CHECKPOINT.rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) < 25e6
