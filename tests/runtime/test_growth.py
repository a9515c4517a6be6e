"""Growth of the KV cache and of a row's ids with the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseq.runtime import GenerationResult, Model, load
from edgeseq.runtime.bundle.manifest import Manifest
from edgeseq.runtime.bundle.reading import Bundle, open_bundle
from edgeseq.runtime.decoding import greedy_and_sampling
from edgeseq.runtime.ort import onnx_decoder
from edgeseq.runtime.ort.engine import Engine
from edgeseq.runtime.ort.graph_session import open_session
from edgeseq.runtime.ort.memory import Buffer, CpuMemory
from edgeseq.runtime.ort.onnx_decoder import OnnxDecoder
from edgeseq.runtime.request.options import GenerationOptions
from tests.support.scripted_search import search_for

Logits = NDArray[np.float32]
PROMPTS = [[5, 17, 300, 8], [41, 2], [9, 9, 120, 77, 31, 250], [3]]
CAPACITY = 40
PLENTY = 10**12  # new tokens that no memory holds


class RecordingMemory(CpuMemory):
    """Main memory that is filled with NaN and records the requested capacities."""

    def __init__(self) -> None:
        self.capacities: list[int] = []

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        buffer = super().allocate(shape, dtype)
        buffer.owner.fill(np.nan)
        if shape[3] not in self.capacities:
            self.capacities.append(shape[3])
        return buffer


@dataclass
class Graph:
    """A bundle's graph, which makes decoders."""

    session: Any
    manifest: Manifest

    def decoder(self, rows: int, capacity: int, memory: CpuMemory) -> OnnxDecoder:
        return OnnxDecoder(self.session, self.manifest, memory, rows=rows, capacity=capacity)


@pytest.fixture(scope="module")
def graph(bundle: Path) -> Graph:
    manifest = open_bundle(bundle).manifest
    return Graph(open_session(bundle / manifest.graphs["decoder"], threads=1), manifest)


@pytest.fixture
def first_capacity(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``first_capacity(n)``: new caches begin with room for ``n`` positions."""
    return lambda n: monkeypatch.setattr(onnx_decoder, "FIRST_CAPACITY", n)


# The cache

Schedule = Sequence[int | list[int]]  # a number of steps, or the parents of the rows that continue
SCHEDULES: dict[str, Schedule] = {
    "steps alone": [30],
    "moved before growth": [1, [2, 0, 3, 1], 29],
    "moved after growth": [20, [1, 1, 3, 0], 10],
    "moved before and after growth": [2, [3, 2], 8, [1, 0], 1, [1, 1], 12],
    "only one row left": [3, [1], 25],
    "the longest row leaves": [3, [0, 1, 3], 5, [1], 20],
    "every step": [1, [1, 0, 3, 2], 1, [3, 2, 0, 1], 1, [2, 0, 1], 1, [0, 0], 1, [1, 0], 9],
}


def logits_of(graph: Graph, schedule: Schedule, memory: CpuMemory) -> list[Logits]:
    """Return the logits of ragged prompts and of every step of the schedule."""
    rng = np.random.default_rng(0)
    rows = len(PROMPTS)
    decoder = graph.decoder(rows, CAPACITY, memory)
    found = [decoder.prefill(PROMPTS).copy()]
    for part in schedule:
        if isinstance(part, list):
            decoder.select_rows(part)
            rows = len(part)
            continue
        for _ in range(part):
            found.append(decoder.decode(rng.integers(320, size=rows).tolist()).copy())
    return found


@pytest.mark.parametrize("room", [1, 5, 6, 7, 8, 13])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_cache_that_grows_gives_the_same_logits(
    graph: Graph, name: str, room: int, first_capacity: Callable[[int], None]
) -> None:
    enough, growing = RecordingMemory(), RecordingMemory()
    expected = logits_of(graph, SCHEDULES[name], enough)
    assert enough.capacities == [CAPACITY]
    assert all(np.isfinite(logits).all() for logits in expected)
    first_capacity(room)
    actual = logits_of(graph, SCHEDULES[name], growing)
    assert growing.capacities[0] == room
    assert len(growing.capacities) > 1
    for got, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("room", "prompt", "steps", "capacities"),
    [
        (4, 3, 0, [4]),
        (4, 4, 0, [4]),
        (4, 4, 1, [4, 8]),
        (4, 3, 18, [4, 8, 16, 21]),  # in the end what was asked for, and no more
        (4, 9, 0, [4, 9]),
        (4, 9, 12, [4, 9, 18, 21]),
        (4, 21, 0, [4, 21]),
        (21, 3, 18, [21]),
        (1024, 3, 18, [21]),
    ],
)
def test_capacity_is_doubled_up_to_the_requested_one(
    graph: Graph,
    room: int,
    prompt: int,
    steps: int,
    capacities: list[int],
    first_capacity: Callable[[int], None],
) -> None:
    first_capacity(room)
    memory = RecordingMemory()
    decoder = graph.decoder(2, 21, memory)
    decoder.prefill([[7] * prompt, [8]])
    for i in range(steps):
        decoder.decode([i, i + 1])
    assert memory.capacities == capacities


@pytest.fixture(params=["model", "t5_model"])
def either_model(request: pytest.FixtureRequest) -> Model:
    """A model of each kind; after an encoder the rows of sources leave too."""
    model: Model = request.getfixturevalue(request.param)
    return model


def lengths_until(end: int, results: Sequence[GenerationResult]) -> set[int]:
    """Return the lengths of the texts if ``end`` were their end token."""
    texts = [[*result.token_ids, end] for result in results]
    return {text.index(end) for text in texts}


@pytest.mark.parametrize("room", [1, 7])
def test_a_model_generates_the_same_ids_while_its_cache_grows(
    either_model: Model, room: int, first_capacity: Callable[[int], None]
) -> None:
    """Rows leave while the cache grows."""
    model = either_model
    free = model.generate_ids(PROMPTS, max_new_tokens=60, eos_token_id=None)
    end = max(range(320), key=lambda token: len(lengths_until(token, free)))
    expected = model.generate_ids(PROMPTS, max_new_tokens=60, eos_token_id=end)
    lengths = {result.generated_tokens for result in expected}
    assert len(lengths) >= 3
    assert max(lengths) > 14
    first_capacity(room)
    results = model.generate_ids(PROMPTS, max_new_tokens=60, eos_token_id=end)
    assert [result.token_ids for result in results] == [result.token_ids for result in expected]


# The ids of a row


def chosen(options: GenerationOptions, steps: int) -> list[list[int]]:
    """Return the choices of two rows from random logits over eight tokens."""
    rng = np.random.default_rng(1)
    rows = search_for([[1, 2, 1], [3]], steps, options)
    found: list[list[int]] = [[], []]
    for _ in range(steps):
        choice = rows.choose(rng.normal(size=(2, 8)).astype(np.float32))
        for new in choice.new_tokens:
            found[new.text].append(new.token)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 2},
        {"do_sample": True, "seed": 5, "repetition_penalty": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("room", [1, 2, 3, 7])
def test_rows_choose_the_same_ids_while_they_grow(
    room: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With options that read all ids of the text so far."""
    expected = chosen(GenerationOptions(**options), 40)
    monkeypatch.setattr(greedy_and_sampling, "FIRST_ROOM", room)
    assert chosen(GenerationOptions(**options), 40) == expected


# A limit that no memory holds


@pytest.fixture
def unbounded(graph: Graph, model: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The model with unlimited positions in its manifest; the tests stay within the real ones."""
    sizes = graph.manifest.dimensions._replace(max_positions=None)
    manifest = replace(graph.manifest, dimensions=sizes)
    allocate = CpuMemory.allocate

    def allocate_little(self: CpuMemory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        assert shape[3] <= onnx_decoder.FIRST_CAPACITY
        return allocate(self, shape, dtype)

    monkeypatch.setattr(CpuMemory, "allocate", allocate_little)
    engine = Engine(manifest, {"decoder": graph.session})
    return Model(Bundle(model.bundle.folder, manifest), model.tokenizer, engine)


@pytest.mark.parametrize("limit", ["max_new_tokens", "max_length"])
def test_a_huge_limit_costs_nothing_where_a_text_ends(
    limit: str, model: Model, unbounded: Model
) -> None:
    free = model.generate_ids(PROMPTS, max_new_tokens=40, eos_token_id=None)
    ends = [result.token_ids[10 * i + 5] for i, result in enumerate(free)]
    expected = model.generate_ids(PROMPTS, max_new_tokens=40, eos_token_id=ends)
    assert all(result.finish_reason == "eos" for result in expected)
    results = unbounded.generate_ids(PROMPTS, eos_token_id=ends, **{limit: PLENTY})
    assert [result.token_ids for result in results] == [result.token_ids for result in expected]


def test_a_huge_limit_of_a_stream(unbounded: Model) -> None:
    stream = unbounded.stream("Once upon a time", max_new_tokens=PLENTY, eos_token_id=None)
    pieces = [next(stream) for _ in range(5)]
    stream.close()  # type: ignore[attr-defined]
    assert all(pieces)


def test_a_huge_limit_ends_with_the_positions(bundle: Path) -> None:
    (result,) = load(bundle, threads=1).generate_ids(
        [[1]], max_new_tokens=PLENTY, eos_token_id=None
    )
    assert (result.generated_tokens, result.finish_reason) == (96, "length")
