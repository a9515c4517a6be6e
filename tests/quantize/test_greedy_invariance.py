"""Greedy texts alone and in batches of 8 differ only where two logits are nearly equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle.manifest import CacheDtype
from edgeseq.runtime.bundle.reading import Bundle

Ids = list[int]

ROOT = Path(__file__).parents[2]
CALIBRATION = ROOT / "quantize" / "calibration.txt"
GENERATIONS = 200
BATCH = 8
NEW_TOKENS = 40
NEAR = 1e-3  # apart, logits that a last bit may put in another order


@pytest.fixture(scope="module")
def quantized(
    export_once: Callable[[Path], Bundle], quantize_once: Callable[..., Bundle]
) -> Callable[[str, int | None], Path]:
    """``quantized(recipe, block_size)``: the demo GPT-2, made once."""
    source = export_once(ROOT / "demos" / "gpt2" / "checkpoint").folder

    def make(recipe: str, block_size: int | None) -> Path:
        return quantize_once(source, recipe, block_size=block_size, allow_loss=True).folder

    return make


def prompts(model: Model) -> list[Ids]:
    """Return prompts of 1 to 150 tokens from a text."""
    ids = model.tokenizer.encode(CALIBRATION.read_text("utf-8"))
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 151, GENERATIONS)
    starts = rng.integers(0, len(ids) - 150, GENERATIONS)
    return [list(ids[start : start + n]) for start, n in zip(starts, lengths, strict=True)]


def greedy(model: Model, batch: Sequence[Ids]) -> list[Ids]:
    results = model.generate_ids(
        batch, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None
    )
    return [list(result.token_ids) for result in results]


def gap(model: Model, prompt: Ids, text: Ids, other: Ids) -> float:
    """Return the gap of the two highest logits of ``text``, made alone, where ``other`` differs."""
    first = next(i for i in range(NEW_TOKENS) if text[i] != other[i])
    decoder = model.new_decoder([prompt], len(prompt) + NEW_TOKENS)
    logits = decoder.prefill([prompt])
    for token in text[:first]:
        logits = decoder.decode([token])
    second, highest = np.sort(logits[0])[-2:]
    return float(highest - second)


def gaps(model: Model) -> list[float]:
    """Return the sorted gaps of the generations that differ."""
    texts = prompts(model)
    batches = [texts[i : i + BATCH] for i in range(0, GENERATIONS, BATCH)]
    with ThreadPoolExecutor(2) as pool:  # a small model is faster so than with two threads
        alone = [text for (text,) in pool.map(lambda prompt: greedy(model, [prompt]), texts)]
        together = [text for made in pool.map(lambda b: greedy(model, b), batches) for text in made]
    rows = zip(texts, alone, together, strict=True)
    return sorted(gap(model, *row) for row in rows if row[1] != row[2])


@pytest.mark.parametrize(
    ("recipe", "block_size", "kv_cache"),
    [
        ("int8", None, "int8"),
        ("int8", None, "float32"),
        ("int8-weights", None, "float32"),
        ("int4", None, "float32"),
    ],
)
def test_texts_differ_only_where_two_tokens_are_near(
    recipe: str,
    block_size: int | None,
    kv_cache: CacheDtype,
    quantized: Callable[[str, int | None], Path],
) -> None:
    model = load(quantized(recipe, block_size), threads=1, kv_cache=kv_cache)
    found = gaps(model)
    print(f"{recipe} {block_size} {kv_cache}: {len(found)} of {GENERATIONS} differ, gaps {found}")
    assert all(value < NEAR for value in found)
