"""The decoder over ONNX Runtime: its cache, its memory, and the limit of positions."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, PromptError
from edgeseq.runtime.bundle.manifest import Manifest
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.ort.graph_session import open_session
from edgeseq.runtime.ort.memory import Buffer, CpuMemory
from edgeseq.runtime.ort.onnx_decoder import OnnxDecoder
from tests.support.scripted_search import run, steps_of

Logits = NDArray[np.float32]
Ids = list[int]
POSITIONS = 96  # of the shared model
PROMPTS = [[5, 17, 300, 8], [41, 2], [9, 9, 120, 77, 31, 250], [3]]


class FilledMemory(CpuMemory):
    """Main memory in which every buffer starts full of one value."""

    def __init__(self, value: float = float("nan")) -> None:
        self._value = value
        self.buffers: list[Buffer] = []

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        buffer = super().allocate(shape, dtype)
        buffer.owner.fill(self._value)
        self.buffers.append(buffer)
        return buffer


@dataclass
class Graph:
    """A bundle's graph, which makes decoders."""

    session: Any
    manifest: Manifest

    def decoder(self, rows: int, capacity: int, memory: CpuMemory | None = None) -> OnnxDecoder:
        memory = memory or CpuMemory()
        return OnnxDecoder(self.session, self.manifest, memory, rows=rows, capacity=capacity)

    def read(self, texts: Sequence[Ids]) -> Logits:
        """Return the logits after texts, each read alone by a new decoder."""
        return np.concatenate([self.decoder(1, len(text)).prefill([text]).copy() for text in texts])


def open_graph(folder: Path) -> Graph:
    manifest = open_bundle(folder).manifest
    return Graph(open_session(folder / manifest.graphs["decoder"], threads=1), manifest)


@pytest.fixture(scope="module")
def graph(bundle: Path) -> Graph:
    return open_graph(bundle)


def assert_close(logits: Logits, expected: Logits) -> None:
    assert logits.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def feed(decoder: OnnxDecoder, texts: list[Ids], steps: int, rng: np.random.Generator) -> Logits:
    """Decode ``steps`` random tokens a row, append them to ``texts`` and return the logits."""
    for _ in range(steps):
        tokens = rng.integers(320, size=len(texts)).tolist()
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
        logits = decoder.decode(tokens)
    return logits


# The cache


def test_the_cache_is_appended_to_in_place(graph: Graph) -> None:
    memory = FilledMemory()
    decoder = graph.decoder(len(PROMPTS), 12, memory)
    addresses = [buffer.address for buffer in memory.buffers]
    lengths = [len(prompt) for prompt in PROMPTS]
    decoder.prefill(PROMPTS)
    before = [buffer.owner.copy() for buffer in memory.buffers]
    for _ in range(3):
        decoder.decode([1, 2, 3, 4])
    layers = 2 * graph.manifest.dimensions.layers  # keys and values
    blocks = [buffer.owner for buffer in memory.buffers]
    assert [len(block) for block in blocks] == [layers]
    for layer, old in zip(blocks[0], before[0], strict=True):
        for row, length in enumerate(lengths):
            np.testing.assert_array_equal(layer[row, :, :length], old[row, :, :length])
            new = layer[row, :, length : length + 3]
            assert np.isfinite(new).all()
            assert not np.array_equal(new, old[row, :, length : length + 3])
            assert np.isnan(layer[row, :, max(lengths) + 3 :]).all()
    assert [buffer.owner.ctypes.data for buffer in memory.buffers] == addresses


def logits_on(graph: Graph, memory: CpuMemory) -> Logits:
    """Return the logits of a ragged batch, of its steps, and of steps after rows have moved."""
    decoder = graph.decoder(len(PROMPTS), 20, memory)
    found = [decoder.prefill(PROMPTS).copy()]
    found += [decoder.decode([7, 8, 9, 10]).copy() for _ in range(3)]
    for parents in ([3, 0, 0], [2, 0]):
        decoder.select_rows(parents)
        found += [decoder.decode([11, 12, 13][: len(parents)]).copy() for _ in range(3)]
    return np.concatenate(found)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3e38])
def test_memory_that_was_never_written_is_never_read(graph: Graph, value: float) -> None:
    expected = logits_on(graph, FilledMemory(0.0))
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(logits_on(graph, FilledMemory(value)), expected)


def test_a_ragged_batch_reads_like_its_texts_alone(graph: Graph) -> None:
    logits = graph.decoder(len(PROMPTS), 6).prefill(PROMPTS)
    assert logits.shape == (4, 320)
    assert_close(logits, graph.read(PROMPTS))


def test_steps_read_like_the_whole_text(graph: Graph) -> None:
    texts = [list(prompt) for prompt in PROMPTS]
    decoder = graph.decoder(len(texts), 40, FilledMemory())
    decoder.prefill(texts)
    for steps in (1, 1, 10, 20):
        logits = feed(decoder, texts, steps, np.random.default_rng(steps))
        assert_close(logits, graph.read(texts))


@pytest.mark.parametrize(
    "moves",
    [
        [[0, 2]],
        [[1, 3]],
        [[3]],
        [[3, 2, 1, 0]],
        [[1, 2, 3, 0]],
        [[1, 0, 2, 3]],
        [[0, 0, 2, 2]],
        [[2, 2, 2, 2]],
        [[3, 3, 0]],
        [[0, 1, 2, 3]],
        [[2, 0], [1, 1]],
        [[3], [0, 0, 0, 0]],
        [[1, 2], [1, 0, 1], [2, 1, 0, 0]],
    ],
    ids=str,
)
def test_selected_rows_continue_like_their_texts_read_alone(
    graph: Graph, moves: list[list[int]]
) -> None:
    texts = [list(prompt) for prompt in PROMPTS]
    decoder = graph.decoder(len(texts), 30, FilledMemory())
    rng = np.random.default_rng(0)
    decoder.prefill(texts)
    for parents in moves:
        feed(decoder, texts, 2, rng)
        decoder.select_rows(parents)
        texts = [list(texts[row]) for row in parents]
        for _ in range(2):  # the first after a move, and one more
            logits = feed(decoder, texts, 1, rng)
            assert logits.shape == (len(texts), 320)
            assert_close(logits, graph.read(texts))


def test_select_rows_directly_after_the_prompts(graph: Graph) -> None:
    decoder = graph.decoder(len(PROMPTS), 10)
    decoder.prefill(PROMPTS)
    decoder.select_rows([2, 0])
    assert_close(decoder.decode([4, 6]), graph.read([[*PROMPTS[2], 4], [*PROMPTS[0], 6]]))


def generated(decoder: OnnxDecoder, prompts: list[Ids], limits: list[int]) -> list[Ids]:
    return [ids for ids, _ in run(decoder, prompts, limits, eos_token_id=None)]


def test_a_capacity_of_exactly_what_is_needed(graph: Graph) -> None:
    limits = [10, 20, 4, 1]
    needed = max(len(p) + limit - 1 for p, limit in zip(PROMPTS, limits, strict=True))
    exact = generated(graph.decoder(4, needed, FilledMemory()), PROMPTS, limits)
    assert [len(ids) for ids in exact] == limits
    assert exact == generated(graph.decoder(4, needed + 50), PROMPTS, limits)


def test_a_model_asks_for_the_memory_it_needs(model: Model, graph: Graph) -> None:
    asked = []

    def new_decoder(prompts: Sequence[Sequence[int]], capacity: int) -> OnnxDecoder:
        asked.append((len(prompts), capacity))
        return graph.decoder(len(prompts), capacity)

    spied = model.with_decoders(new_decoder)
    spied.generate_ids(PROMPTS, max_new_tokens=10, eos_token_id=None)
    spied.generate_ids([[1] * 90], max_new_tokens=10**9, eos_token_id=None)
    spied.generate_ids([[1]], max_new_tokens=1)
    assert asked == [(4, 6 + 10 - 1), (1, POSITIONS), (1, 1)]


# What a step allocates

VOCABULARY = 20_000
STEPS = 200
WARM_UP = 200  # ONNX Runtime's binding fills a pool of small objects first
CAPACITY = 600
LOGITS_ROW_BYTES = VOCABULARY * 4
SLACK_BYTES = 16 * 1024  # for Python's own small objects
TRACED_PROMPTS = [[5, 17, 300], [41], [9, 9], [3]]


@pytest.fixture(scope="module")
def large_graph(make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Graph:
    """A graph whose logits and cache need most of its memory."""
    checkpoint = make_checkpoint(vocab_size=VOCABULARY, n_positions=1024)
    folder = tmp_path_factory.mktemp("large") / "bundle"
    return open_graph(export_checkpoint(checkpoint, folder).folder)


def peak_bytes(steps: Iterable[object]) -> int:
    """Return the peak memory while ``steps`` runs, less that at its start."""
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in steps:
            pass
        return tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()


def test_the_tests_bound_is_far_below_cache_and_logits(large_graph: Graph) -> None:
    sizes = large_graph.manifest.dimensions
    row_of_keys = sizes.heads * CAPACITY * sizes.stored_head_size * 4
    assert min(row_of_keys, LOGITS_ROW_BYTES) > SLACK_BYTES * 4


@pytest.mark.parametrize("rows", [1, 4])
def test_a_step_allocates_neither_cache_nor_logits(large_graph: Graph, rows: int) -> None:
    decoder = large_graph.decoder(rows, CAPACITY)
    decoder.prefill(TRACED_PROMPTS[:rows])
    for i in range(WARM_UP):
        decoder.decode([i] * rows)
    steps = (decoder.decode([i % VOCABULARY] * rows) for i in range(STEPS))
    assert peak_bytes(steps) < SLACK_BYTES


@pytest.mark.parametrize("rows", [1, 4])
def test_the_loop_allocates_neither_cache_nor_logits(large_graph: Graph, rows: int) -> None:
    prompts = TRACED_PROMPTS[:rows]
    decoder = large_graph.decoder(rows, CAPACITY)
    steps = steps_of(decoder, prompts, WARM_UP + STEPS, eos_token_id=None)
    for _ in range(WARM_UP):
        next(steps)
    assert peak_bytes(next(steps) for _ in range(STEPS)) < SLACK_BYTES


def test_the_bound_detects_a_copy_of_the_logits(large_graph: Graph) -> None:
    decoder = large_graph.decoder(4, CAPACITY)
    decoder.prefill(TRACED_PROMPTS)
    copies = (decoder.decode([1] * 4).copy() for _ in range(3))
    assert peak_bytes(copies) >= 4 * LOGITS_ROW_BYTES


def test_the_logits_are_at_one_address(large_graph: Graph) -> None:
    decoder = large_graph.decoder(4, CAPACITY)
    addresses = {decoder.prefill(TRACED_PROMPTS).ctypes.data}
    addresses |= {decoder.decode([i] * 4).ctypes.data for i in range(STEPS)}
    decoder.select_rows([3, 1])
    addresses |= {decoder.decode([i] * 2).ctypes.data for i in range(5)}
    assert len(addresses) == 1


# The end of the positions


@torch.no_grad()
def assert_greedy(reference: GPT2LMHeadModel, prompt: Ids, ids: Sequence[int]) -> None:
    """Check that each of ``ids`` is Transformers' most probable token."""
    text = torch.tensor([[*prompt, *ids[:-1]]])
    assert text.shape[1] <= POSITIONS
    assert reference(text).logits[0, len(prompt) - 1 :].argmax(dim=-1).tolist() == list(ids)


def random_ids(count: int, seed: int = 0) -> Ids:
    ids: Ids = np.random.default_rng(seed).integers(1, 320, count).tolist()
    return ids


@pytest.mark.parametrize(
    ("length", "asked", "expected"), [(96, 50, 1), (95, 50, 2), (90, 50, 7), (90, 7, 7), (90, 6, 6)]
)
def test_generation_ends_with_the_positions(
    model: Model, reference: GPT2LMHeadModel, length: int, asked: int, expected: int
) -> None:
    prompt = random_ids(length)
    result = model.generate_ids([prompt], max_new_tokens=asked, eos_token_id=None)[0]
    assert result.finish_reason == "length"
    assert result.generated_tokens == expected
    assert_greedy(reference, prompt, result.token_ids)


def test_each_row_ends_with_its_own_positions(model: Model, reference: GPT2LMHeadModel) -> None:
    prompts = [random_ids(length, length) for length in (96, 3, 70)]
    results = model.generate_ids(prompts, max_new_tokens=500, eos_token_id=None)
    assert [result.generated_tokens for result in results] == [1, 94, 27]
    for prompt, result in zip(prompts, results, strict=True):
        assert_greedy(reference, prompt, result.token_ids)


def test_max_length_beyond_the_positions(model: Model) -> None:
    result = model.generate_ids([random_ids(90)], max_length=500, eos_token_id=None)[0]
    assert result.generated_tokens == 7


@pytest.mark.parametrize("length", [97, 98, 1000])
def test_a_prompt_longer_than_the_positions(model: Model, length: int) -> None:
    with pytest.raises(PromptError, match=rf"\b{length}\b.*\b{POSITIONS}\b"):
        model.generate_ids([[1], random_ids(length)], max_new_tokens=1)
    with pytest.raises(PromptError, match=rf"\b{POSITIONS}\b"):
        model.generate("a b" * length, max_new_tokens=1)
    with pytest.raises(PromptError, match=rf"\b{POSITIONS}\b"):
        model.stream("a b" * length, max_new_tokens=1)
