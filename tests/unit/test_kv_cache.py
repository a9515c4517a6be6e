"""The KV cache with random contents, compared with a copy of every text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from edgeseq.runtime.bundle.manifest import Dimensions
from edgeseq.runtime.ort.kv_cache import KVCache
from edgeseq.runtime.ort.memory import Buffer, CpuMemory

LAYERS, HEADS, HEAD_SIZE = 2, 2, 3
SIZES = Dimensions(
    layers=LAYERS,
    heads=HEADS,
    head_size=HEAD_SIZE,
    stored_head_size=HEAD_SIZE,
    vocabulary=8,
    max_positions=None,
)
Values = NDArray[np.float32]  # of a row: (2 * layers, heads, positions, head size)


class CountingMemory(CpuMemory):
    """Main memory that is filled with NaN and records the positions that are copied."""

    def __init__(self) -> None:
        self.copied: list[tuple[int, int, int, int]] = []

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        buffer = super().allocate(shape, dtype)
        buffer.owner.fill(np.nan)
        return buffer

    def copy_row(self, block: Buffer, source: int, target: int, begin: int, end: int) -> None:
        self.copied.append((source, target, begin, end))
        super().copy_row(block, source, target, begin, end)


def new_cache(rows: int, capacity: int) -> KVCache:
    return KVCache(
        SIZES, "float32", CountingMemory(), rows=rows, capacity=capacity, head_size=HEAD_SIZE
    )


def append(cache: KVCache, row: int, values: Values) -> None:
    """Write the next positions of a row, as a graph does."""
    begin = cache.lengths[row]
    end = begin + values.shape[2]
    for buffer, value in zip(cache.buffers, values, strict=True):
        rows = np.ndarray(buffer.shape, buffer.dtype, memory_of(buffer))
        rows[row, :, begin:end] = value
    cache.lengths[row] = end


def memory_of(buffer: Buffer) -> Any:
    """Return the bytes of a buffer, found by its address alone."""
    block = buffer.owner
    begin = buffer.address - block.ctypes.data
    size = int(np.prod(buffer.shape)) * buffer.dtype.itemsize
    return block.reshape(-1).view(np.uint8)[begin : begin + size].data


def contents(cache: KVCache, row: int) -> Values:
    found = [
        np.ndarray(buffer.shape, buffer.dtype, memory_of(buffer))[row, :, : cache.lengths[row]]
        for buffer in cache.buffers
    ]
    return np.stack(found)


class Caches(RuleBasedStateMachine):
    """A cache whose rows form groups, as after an encoder.

    ``texts`` holds the expected contents of each text, ``rows`` its row. Several rows of a group
    may be padding.
    """

    @initialize(rows=st.integers(1, 4), capacity=st.integers(1, 6), has_encoder=st.booleans())
    def start(self, rows: int, capacity: int, has_encoder: bool) -> None:
        self.has_encoder = has_encoder
        self.rng = np.random.default_rng(0)
        self.cache = new_cache(rows, capacity)
        self.rows = list(range(rows))
        self.groups = list(range(rows))  # the source of each text
        empty = np.empty((2 * LAYERS, HEADS, 0, HEAD_SIZE), np.float32)
        self.texts = [empty for _ in range(rows)]

    @rule(count=st.integers(1, 3))
    def decode(self, count: int) -> None:
        """Decode a token in every row, padding included; the cache grows if necessary."""
        for _ in range(count):
            needed = max(self.cache.lengths) + 1
            if needed > self.cache.capacity:
                self.cache.grow(max(needed, 2 * self.cache.capacity))
            for row in range(self.cache.rows):
                values = self.random(1)
                append(self.cache, row, values)
                if row in self.rows:
                    text = self.rows.index(row)
                    self.texts[text] = np.concatenate([self.texts[text], values], axis=2)

    @precondition(lambda self: not self.has_encoder)
    @rule(parents=st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
    def select_anywhere(self, parents: list[int]) -> None:
        """Select rows without an encoder: a text may have any row."""
        chosen = [parent % len(self.texts) for parent in parents]
        self.select(chosen, [range(len(chosen))] * len(chosen), len(chosen))

    @precondition(lambda self: self.has_encoder)
    @rule(
        picked=st.lists(
            st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=4, max_size=4
        ),
        leaving=st.integers(0, 20),
    )
    def select_within_groups(self, picked: list[list[int]], leaving: int) -> None:
        """Select rows after an encoder: each group has as many rows as the largest."""
        chosen: list[int] = []
        for group, picks in enumerate(picked[: max(self.groups) + 1]):
            members = [text for text, owner in enumerate(self.groups) if owner == group]
            if group != leaving:
                chosen += [members[pick % len(members)] for pick in picks]
        chosen = chosen or [0]
        owners = [self.groups[parent] for parent in chosen]
        live = list(dict.fromkeys(owners))
        self.groups = [live.index(owner) for owner in owners]
        size = max(self.groups.count(group) for group in self.groups)
        slots = [range(group * size, (group + 1) * size) for group in self.groups]
        self.select(chosen, slots, size * len(live))

    @rule(text=st.integers(0, 10**6), kept=st.integers(0, 10**6))
    def forget(self, text: int, kept: int) -> None:
        text %= len(self.texts)
        length = kept % (self.texts[text].shape[2] + 1)
        self.texts[text] = self.texts[text][:, :, :length]
        self.cache.forget(self.rows[text], length)

    @rule(more=st.integers(0, 3))
    def grow(self, more: int) -> None:
        self.cache.grow(self.cache.capacity + more)

    @precondition(lambda self: self.cache.rows == 1)
    @rule(continues_fork=st.booleans())
    def fork(self, continues_fork: bool) -> None:
        """Fork, and overwrite one of the two caches: the other must not change."""
        other = self.cache.fork()
        kept, spoiled = (other, self.cache) if continues_fork else (self.cache, other)
        for buffer in spoiled.buffers:
            buffer.owner.fill(7)
        self.cache = kept

    @invariant()
    def every_text_is_where_it_should_be(self) -> None:
        for row, text in zip(self.rows, self.texts, strict=True):
            np.testing.assert_array_equal(contents(self.cache, row), text)

    @invariant()
    def what_rows_share_is_the_same_in_both(self) -> None:
        common = self.cache._common
        for i, one in zip(self.rows, self.texts, strict=True):
            for j, other in zip(self.rows, self.texts, strict=True):
                length = int(common[i][j])
                assert i == j or length <= min(one.shape[2], other.shape[2])
                if i != j:
                    np.testing.assert_array_equal(one[:, :, :length], other[:, :, :length])

    def select(self, chosen: Sequence[int], slots: Sequence[range], rows: int) -> None:
        sources = [self.rows[text] for text in chosen]
        self.texts = [self.texts[text] for text in chosen]
        self.rows = self.cache.select_rows(sources, slots, rows)
        assert len(set(self.rows)) == len(chosen)
        assert all(row in allowed for row, allowed in zip(self.rows, slots, strict=True))
        assert self.cache.rows == rows

    def random(self, positions: int) -> Values:
        shape = (2 * LAYERS, HEADS, positions, HEAD_SIZE)
        return self.rng.normal(size=shape).astype(np.float32)


TestCaches = Caches.TestCase
TestCaches.settings = settings(
    max_examples=100, stateful_step_count=20, derandomize=True, database=None, deadline=None
)


def filled(lengths: Sequence[int], capacity: int) -> tuple[KVCache, CountingMemory]:
    rng = np.random.default_rng(1)
    cache = new_cache(len(lengths), capacity)
    for row, length in enumerate(lengths):
        append(cache, row, rng.normal(size=(4, HEADS, length, HEAD_SIZE)).astype(np.float32))
    memory = cache.memory
    assert isinstance(memory, CountingMemory)
    return cache, memory


def anywhere(count: int) -> list[range]:
    return [range(count)] * count


def test_growth_keeps_what_is_filled() -> None:
    cache, _ = filled([4, 2, 3], 4)
    assert cache.select_rows([2, 1], anywhere(2), 2) == [0, 1]
    before = [contents(cache, row) for row in range(2)]
    old = cache.buffers
    cache.grow(9)
    assert (cache.rows, cache.capacity, cache.lengths) == (2, 9, [3, 2])
    assert cache.buffers is not old
    assert {buffer.shape for buffer in cache.buffers} == {(3, HEADS, 9, HEAD_SIZE)}
    for row, values in enumerate(before):
        np.testing.assert_array_equal(contents(cache, row), values)


def test_fewer_rows_stay_in_the_same_memory() -> None:
    cache, memory = filled([3, 1, 2], 4)
    buffers = cache.buffers
    assert cache.select_rows([0, 2], anywhere(2), 2) == [0, 1]
    assert cache.select_rows([1, 0, 1], anywhere(3), 3) == [1, 0, 2]  # as many as before
    assert cache.buffers is buffers
    assert memory.copied == [(2, 1, 0, 2), (1, 2, 0, 2)]


def test_more_rows_than_ever_need_new_memory() -> None:
    cache, memory = filled([3], 4)
    before = contents(cache, 0)
    assert cache.select_rows([0, 0, 0], anywhere(3), 3) == [0, 1, 2]
    assert cache.lengths == [3, 3, 3]
    assert memory.copied == []
    for row in range(3):
        np.testing.assert_array_equal(contents(cache, row), before)


def test_only_what_differs_is_copied() -> None:
    """Beams that differ after three positions and become one two positions later."""
    cache, memory = filled([3], 8)
    cache.select_rows([0, 0], anywhere(2), 2)
    for _ in range(2):
        for row in range(2):
            append(cache, row, np.full((4, HEADS, 1, HEAD_SIZE), row, np.float32))
    assert cache.select_rows([1, 1], anywhere(2), 2) == [1, 0]
    assert memory.copied == [(1, 0, 3, 5)]
    assert cache.select_rows([0, 0], anywhere(2), 2) == [0, 1]
    assert all(begin == end for *_, begin, end in memory.copied[1:])  # the same already


def test_forgotten_positions_are_shared_no_more() -> None:
    cache, memory = filled([4], 8)
    cache.select_rows([0, 0], anywhere(2), 2)
    cache.forget(1, 2)
    append(cache, 1, np.ones((4, HEADS, 2, HEAD_SIZE), np.float32))
    cache.select_rows([0, 0], anywhere(2), 2)
    assert memory.copied == [(0, 1, 2, 4)]


def test_groups_that_swap_slots_are_copied_to_new_memory() -> None:
    cache, memory = filled([2, 3, 4, 1], 4)
    expected = [contents(cache, row) for row in (2, 3, 0, 1)]
    slots = [range(2), range(2), range(2, 4), range(2, 4)]
    found = cache.select_rows([2, 3, 0, 1], slots, 4)
    assert memory.copied == []
    for row, values in zip(found, expected, strict=True):
        np.testing.assert_array_equal(contents(cache, row), values)


def test_what_padding_holds_is_never_taken_for_a_text() -> None:
    """A beam of the first source leaves, and later another text takes its row."""
    cache, memory = filled([2, 2], 8)
    pairs = [range(2), range(2), range(2, 4), range(2, 4)]
    assert cache.select_rows([0, 0, 1, 1], pairs, 4) == [0, 1, 2, 3]
    for row in range(4):
        append(cache, row, np.full((4, HEADS, 2, HEAD_SIZE), row, np.float32))
    assert cache.select_rows([0, 2, 3], pairs[1:], 4) == [0, 2, 3]
    assert max(cache.lengths) == 4  # padding is as long as some text: it can be run
    expected = contents(cache, 0)
    assert cache.select_rows([0, 0, 2, 3], pairs, 4) == [0, 1, 2, 3]
    assert memory.copied == [(0, 1, 0, 4)]
    np.testing.assert_array_equal(contents(cache, 1), expected)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_bytes_of_a_position(dtype: str) -> None:
    cache = KVCache(SIZES, dtype, CpuMemory(), rows=2, capacity=5, head_size=HEAD_SIZE)
    held = cache.buffers[0].owner
    assert cache.position_bytes * 2 * 5 == held.nbytes
