"""The same tokens give the same logits in any batch and in any chunks.

With quantized weights and an INT8 cache they are the same bit for bit. Where a kernel of ONNX
Runtime computes otherwise, a test that is expected to fail names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle.manifest import CacheDtype
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.native.library import Kernels, processor_kernels
from edgeseq.runtime.ort import onnx_decoder

Logits = NDArray[np.float32]
Ids = list[int]
Leaving = Mapping[int, set[int]]  # by the step before which they leave, the rows of the batch
Quantized = Callable[..., Path]

ROOT = Path(__file__).parents[2]
CALIBRATION = ROOT / "quantize" / "calibration.txt"
STEPS = 20
LENGTHS = (1, 2, 7, 33, 64, 130, 300, 299)  # of prompts; one more than a tile of attention: below
PLACES = ((0, 1, 2, 3, 4, 5, 6, 7), (7, 5, 3, 1, 0, 2, 4, 6))  # of the prompts in a batch
LEAVING = {3: {5}, 6: {0, 7}, 9: {3, 2}, 12: {6}, 15: {1}}
SOURCES = (1, 2, 7, 15, 16, 17, 33, 65, 100, 128, 129, 130, 145, 257)  # lengths
SOURCE_BATCHES = ((0, 1, 2, 3, 4, 5, 6, 13), (13, 7, 8, 9, 10, 11, 12, 0), (0, 4, 2, 9, 1, 3, 5, 6))
GPT2: dict[str, dict[str, Any]] = {
    "odd": {"seed": 1, "n_embd": 100, "tie_word_embeddings": True},
    "wide": {"seed": 2, "n_embd": 256, "n_inner": 1024, "n_layer": 1, "vocab_size": 1000},
    "large": {"seed": 3, "n_embd": 768, "n_head": 12, "n_layer": 1},
}
CROSS = (
    "ONNX Runtime's MultiHeadAttention multiplies one query by another kernel than several, and "
    "attends to a source in float32 whatever the cache holds"
)


@pytest.fixture(scope="session")
def float_bundle(
    seeded_gpt2: Callable[..., GPT2LMHeadModel],
    seeded_t5: Callable[..., T5ForConditionalGeneration],
    make_checkpoint: Callable[..., Path],
    save_t5: Callable[..., Path],
    export_once: Callable[[Path], Bundle],
) -> Callable[[str], Path]:
    """``float_bundle(name)``: a demo's or a seeded model's bundle in float32, made once."""

    @cache
    def make(name: str) -> Path:
        if name in GPT2:
            checkpoint = make_checkpoint(n_positions=320, initializer_range=0.15, **GPT2[name])
        elif name == "odd t5":
            checkpoint = save_t5(seeded_t5(1, d_kv=12))
        else:
            checkpoint = ROOT / "demos" / name / "checkpoint"
        return export_once(checkpoint).folder

    return make


@pytest.fixture(scope="session")
def quantized(
    float_bundle: Callable[[str], Path],
    quantize_once: Callable[..., Bundle],
    tmp_path_factory: pytest.TempPathFactory,
) -> Quantized:
    """``quantized(name, recipe, **options)``, made once from little text and let through."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text.txt").write_text(CALIBRATION.read_text("utf-8")[:3000], "utf-8")
    (folder / "pairs.txt").write_text("fox\tclever\n" * 3 + "home\tgo\n", "utf-8")

    def make(name: str, recipe: str, **options: Any) -> Path:
        if recipe == "fp32":
            return float_bundle(name)
        text = folder / ("pairs.txt" if name.endswith("t5") else "text.txt")
        loose = {"perplexity_rise_limit": 1e9, "allow_loss": True}
        return quantize_once(float_bundle(name), recipe, text=text, **loose, **options).folder

    return make


@dataclass
class Case:
    """A bundle with a type of cache and kernels, and its logits for single prompts."""

    folder: Path
    kv_cache: CacheDtype
    kernels: Kernels = "auto"

    @cached_property
    def model(self) -> Model:
        return load(self.folder, threads=1, kv_cache=self.kv_cache, kernels=self.kernels)

    @cached_property
    def threaded(self) -> Model:
        return load(self.folder, threads=2, kv_cache=self.kv_cache, kernels=self.kernels)

    def ids(self, length: int, seed: int) -> Ids:
        vocabulary = self.model.bundle.manifest.dimensions.vocabulary
        return np.random.default_rng(seed).integers(3, vocabulary, length).tolist()

    @cached_property
    def prompts(self) -> list[Ids]:
        return [self.ids(length, length) for length in LENGTHS]

    @cached_property
    def steps(self) -> list[Ids]:
        return [self.ids(STEPS, seed) for seed in range(max(len(LENGTHS), len(SOURCES)))]

    @cached_property
    def alone(self) -> list[list[Logits]]:
        """The logits of each prompt alone, and of the tokens after it."""
        pairs = zip(self.prompts, self.steps, strict=False)
        return [logits_alone(self.model, prompt, steps) for prompt, steps in pairs]

    @cached_property
    def tile(self) -> int:
        """The number of queries that attention over float32 keys handles at once."""
        return 2 * self.model.bundle.manifest.dimensions.stored_head_size


def logits_alone(
    model: Model, prompt: Ids, steps: Sequence[int], source: Ids | None = None
) -> list[Logits]:
    return logits_in_batch(model, [prompt], [steps], sources=source and [source])[0]


def logits_in_batch(
    model: Model,
    prompts: Sequence[Ids],
    steps: Sequence[Sequence[int]],
    leaving: Leaving | None = None,
    sources: Sequence[Ids] | None = None,
) -> list[list[Logits]]:
    """Return each row's logits, after its prompt and after each of its steps."""
    capacity = max(map(len, prompts)) + len(steps[0])
    decoder = model.new_decoder(sources or prompts, capacity)
    found = [[logits] for logits in decoder.prefill(prompts).copy()]
    rows = list(range(len(prompts)))
    for i in range(len(steps[0])):
        if gone := (leaving or {}).get(i):
            decoder.select_rows([j for j, row in enumerate(rows) if row not in gone])
            rows = [row for row in rows if row not in gone]
        logits = decoder.decode([steps[row][i] for row in rows]).copy()
        for row, values in zip(rows, logits, strict=True):
            found[row].append(values)
    return found


def logits_one_by_one(model: Model, prompt: Ids, source: Ids | None = None) -> Logits:
    """Return the logits after a prompt that is read token by token."""
    return logits_alone(model, prompt[:1], prompt[1:], source)[-1]


def assert_same(actual: Sequence[Logits], expected: Sequence[Logits], what: object) -> None:
    for i, (got, wanted) in enumerate(zip(actual, expected, strict=False)):
        np.testing.assert_array_equal(got, wanted, f"{what}, after {i} steps")


def difference(actual: Sequence[Logits], expected: Sequence[Logits]) -> float:
    """Return the largest difference, relative to the largest logit."""
    pairs = zip(actual, expected, strict=True)
    return max(float(abs(got - wanted).max() / abs(wanted).max()) for got, wanted in pairs)


# Decoders of their own

BOTH_CACHES = [
    ("gpt2", "int8", {}),
    ("odd", "int8", {}),
    ("gpt2", "int8-weights", {}),
    ("odd", "int8-weights", {}),
    ("gpt2", "int4", {}),
]
STOCK = [("gpt2", "int8", {}), ("odd", "int8-weights", {})]
if processor_kernels() == "avx512-vnni":  # ONNX Runtime's AVX2 kernel adds by the number of rows
    STOCK.append(("gpt2", "int4", {}))
INT8_CACHE = [*BOTH_CACHES, ("wide", "int8", {}), ("large", "int8", {})]


def named(values: tuple[Any, ...]) -> str:
    return " ".join(map(str, values))


@pytest.fixture(scope="session")
def case(quantized: Quantized) -> Callable[..., Case]:
    """``case(name, recipe, options, kv_cache, kernels)``, made once."""
    made: dict[str, Case] = {}

    def make(
        name: str,
        recipe: str,
        options: dict[str, Any],
        kv_cache: CacheDtype,
        kernels: Kernels = "auto",
    ) -> Case:
        key = f"{name} {recipe} {options} {kv_cache} {kernels}"
        if key not in made:
            made[key] = Case(quantized(name, recipe, **options), kv_cache, kernels)
        return made[key]

    return make


@pytest.fixture(
    params=[
        *((*which, "int8") for which in INT8_CACHE),
        *((*which, "int8", "stock") for which in STOCK),
    ],
    ids=named,
)
def int8_cache(request: pytest.FixtureRequest, case: Callable[..., Case]) -> Case:
    return case(*request.param)


@pytest.fixture(params=BOTH_CACHES, ids=named)
def float_cache(request: pytest.FixtureRequest, case: Callable[..., Case]) -> Case:
    return case(*request.param, "float32")


@pytest.fixture(
    params=[
        *((*which, "int8") for which in INT8_CACHE),
        *((*which, "float32") for which in BOTH_CACHES),
        *((*which, "int8", "stock") for which in STOCK),
    ],
    ids=named,
)
def exact(request: pytest.FixtureRequest, case: Callable[..., Case]) -> Case:
    return case(*request.param)


def test_a_row_says_the_same_alone_and_anywhere_in_a_batch(exact: Case) -> None:
    for order, model in zip(PLACES, (exact.model, exact.threaded), strict=True):
        prompts, steps = ([all_[i] for i in order] for all_ in (exact.prompts, exact.steps))
        batch = logits_in_batch(model, prompts, steps)
        for row, i in enumerate(order):
            assert_same(batch[row], exact.alone[i], f"{LENGTHS[i]} tokens in row {row}")


def test_rows_that_leave_change_nothing_for_the_others(exact: Case) -> None:
    batch = logits_in_batch(exact.model, exact.prompts, exact.steps[:8], LEAVING)
    assert [len(row) for row in batch] == [7, 16, 10, 10, 21, 4, 13, 7]
    for length, row, alone in zip(LENGTHS, batch, exact.alone, strict=True):
        assert_same(row, alone, f"{length} tokens")


@pytest.mark.parametrize("size", [2, 3, 64, 129, 10**6])
def test_a_prompt_in_chunks(size: int, exact: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if exact.kv_cache == "float32" and size % exact.tile == 1:
        pytest.skip("the decoder never reads a chunk of one more than a tile")
    expected = exact.alone
    monkeypatch.setitem(onnx_decoder.CHUNKS, exact.kv_cache, size)
    for i, length in enumerate(LENGTHS):
        logits = logits_alone(exact.model, exact.prompts[i], exact.steps[i][:3])
        assert_same(logits, expected[i], f"{length} tokens")


def test_threads_change_nothing(exact: Case) -> None:
    for i, length in enumerate(LENGTHS):
        logits = logits_alone(exact.threaded, exact.prompts[i], exact.steps[i])
        assert_same(logits, exact.alone[i], f"{length} tokens")


def test_one_token_at_a_time_and_several_at_once(int8_cache: Case) -> None:
    case = int8_cache
    for length in (2, 7, 33, 65, 129):
        prompt = case.ids(length, length)
        (at_once,) = logits_alone(case.model, prompt, [])
        np.testing.assert_array_equal(logits_one_by_one(case.model, prompt), at_once)


def assert_tiles_do_not_matter(case: Case, length: int) -> None:
    prompt, longer = case.ids(length, 0), case.ids(300, 1)
    row, _ = logits_in_batch(case.model, [prompt, longer], case.steps[:2])
    assert_same(row, logits_alone(case.model, prompt, case.steps[0]), f"{length} tokens")


@pytest.mark.parametrize("length", [33, 65, 129, 257])
def test_one_more_than_a_tile_beside_a_longer_one(length: int, int8_cache: Case) -> None:
    assert_tiles_do_not_matter(int8_cache, length)


def test_one_more_than_a_tile_with_a_float_cache(float_cache: Case) -> None:
    for tiles in (1, 2, 3, 4):
        if (length := tiles * float_cache.tile + 1) < 300:
            assert_tiles_do_not_matter(float_cache, length)


# Differences where nothing is promised bit for bit


@pytest.mark.parametrize("name", ["gpt2", "odd"])
def test_float32_differs_little(name: str, quantized: Quantized) -> None:
    case = Case(quantized(name, "fp32"), "float32")
    prompts = [case.ids(case.tile + 1, 0), case.ids(2 * case.tile + 1, 1), case.ids(300, 2)]
    batch = logits_in_batch(case.model, prompts, case.steps[:3])
    for i, prompt in enumerate(prompts):
        assert difference(batch[i], logits_alone(case.model, prompt, case.steps[i])) < 1e-5
        (at_once,) = logits_alone(case.model, prompt, [])
        assert difference([logits_one_by_one(case.model, prompt)], [at_once]) < 1e-5


# With an encoder


@pytest.fixture(params=["int8", "float32"])
def kv_cache(request: pytest.FixtureRequest) -> CacheDtype:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(
    params=[(n, recipe) for n in ("t5", "odd t5") for recipe in ("int8", "int8-weights")], ids=named
)
def seq2seq(
    request: pytest.FixtureRequest, kv_cache: CacheDtype, case: Callable[..., Case]
) -> Case:
    return case(*request.param, {}, kv_cache)


def assert_sources_do_not_matter(case: Case, lengths: Sequence[int]) -> None:
    """Check logits of sources in batches; ``lengths``: of the decoder's prompts, repeated."""
    sources = [case.ids(length, length) for length in SOURCES]
    starts = [[0, *case.ids(lengths[i % len(lengths)] - 1, i)] for i in range(len(SOURCES))]
    alone = [
        logits_alone(case.model, starts[i], case.steps[i], source)
        for i, source in enumerate(sources)
    ]
    for order in SOURCE_BATCHES:
        chosen = [[all_[i] for i in order] for all_ in (starts, case.steps, sources)]
        batch = logits_in_batch(case.threaded, *chosen[:2], LEAVING, sources=chosen[2])
        for row, i in enumerate(order):
            assert_same(batch[row], alone[i], f"source of {SOURCES[i]}")


@pytest.mark.parametrize("lengths", [(1,), (2,), (2, 3, 5, 2, 7, 2, 4, 20)], ids=str)
def test_a_source_alone_and_in_a_batch(lengths: Sequence[int], seq2seq: Case) -> None:
    assert_sources_do_not_matter(seq2seq, lengths)


@pytest.mark.xfail(reason=CROSS, strict=True)
def test_one_decoder_id_beside_several(kv_cache: CacheDtype, case: Callable[..., Case]) -> None:
    assert_sources_do_not_matter(case("t5", "int8", {}, kv_cache), (1, 3, 1, 2))


@pytest.mark.parametrize("size", [2, 3, 64])
def test_decoder_ids_in_chunks(size: int, seq2seq: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case = seq2seq
    source = case.ids(33, 0)
    prompts = [case.ids(length, length) for length in (2, 3, 7, 18, 64, 130)]
    expected = [logits_alone(case.model, prompt, case.steps[0][:3], source) for prompt in prompts]
    monkeypatch.setitem(onnx_decoder.CHUNKS, case.kv_cache, size)
    for prompt, wanted in zip(prompts, expected, strict=True):
        logits = logits_alone(case.model, prompt, case.steps[0][:3], source)
        assert_same(logits, wanted, f"{len(prompt)} tokens")


@pytest.mark.xfail(reason=CROSS, strict=True)
def test_one_decoder_id_at_a_time(kv_cache: CacheDtype, case: Callable[..., Case]) -> None:
    t5 = case("t5", "int8", {}, kv_cache)
    source = t5.ids(33, 0)
    for length in (2, 7, 33, 65):
        prompt = t5.ids(length, length)
        (at_once,) = logits_alone(t5.model, prompt, [], source)
        np.testing.assert_array_equal(logits_one_by_one(t5.model, prompt, source), at_once)
