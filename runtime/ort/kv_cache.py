"""The KV cache: keys and values of every decoder layer, in one block of memory.

The graph appends to it in place. This module allocates it, counts the filled positions, grows it
and copies rows. The same class holds the cross-attention keys and values of sources. Row ``i`` of
every buffer belongs to row ``i`` of the graph's batch; rows past ``rows`` are free.

Rows are reordered with few copies: a text stays in its parent's row if it can. If several texts
continue one parent, or a row has to move, a text takes the free row with which it shares the
longest prefix, and only the positions after that prefix are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np

from ..bundle.manifest import Dimensions
from .memory import Buffer, Memory

TRACKED_ROWS = 64  # most rows whose shared prefixes are tracked


class KVCache:
    """The KV cache of a number of rows.

    ``buffers``: for each layer the keys, then the values, (rows, heads, capacity, head_size) each.
    """

    def __init__(
        self,
        dimensions: Dimensions,
        dtype: str,
        memory: Memory,
        *,
        rows: int,
        capacity: int,
        head_size: int,
    ) -> None:
        self.memory = memory
        self._shape = (2 * dimensions.layers, rows, dimensions.heads, capacity, head_size)
        self._dtype = np.dtype(dtype)
        self._allocate()
        self.lengths = [0] * rows  # filled positions of each row in use
        self._common = nothing_in_common(rows)

    @property
    def rows(self) -> int:
        """The number of rows in use."""
        return len(self.lengths)

    @property
    def allocated_rows(self) -> int:
        """The number of rows that there is memory for."""
        return self._shape[1]

    @property
    def capacity(self) -> int:
        """The number of positions that a row has room for."""
        return self._shape[3]

    @property
    def position_bytes(self) -> int:
        """The bytes of one position of a row."""
        layers, _, heads, _, head_size = self._shape
        return layers * heads * head_size * self._dtype.itemsize

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` positions; the cache has new buffers afterwards."""
        self._move(list(range(self.rows)), self._shape[1], capacity)

    def fork(self) -> KVCache:
        """Return a copy of the first row, with memory of its own."""
        other = copy(self)
        other._move([0], 1, self.capacity)
        other.lengths = self.lengths[:1]
        other._common = nothing_in_common(1)
        return other

    def new(self, rows: int, capacity: int) -> KVCache:
        """Return an empty cache of the same format, with its own memory."""
        other = copy(self)
        layers, _, heads, _, head_size = self._shape
        other._shape = (layers, rows, heads, capacity, head_size)
        other._allocate()
        other.lengths = [0] * rows
        other._common = nothing_in_common(rows)
        return other

    def released(self) -> KVCache:
        """Return this cache without its memory: lengths and sizes stay known."""
        other = copy(self)
        other._block, other.buffers = Buffer(0, (0,), self._dtype, None), []
        return other

    def fill_with_zeros(self) -> None:
        """Write zeros everywhere; main memory only."""
        self._block.owner.fill(0)

    def copy_from(self, other: KVCache, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a row of ``other`` to row ``target``."""
        self.memory.copy_out(other._block, source, self._block, target, length)

    def copy_row(self, source: int, target: int, begin: int, end: int) -> None:
        """Copy positions ``begin`` to ``end`` from row ``source`` to row ``target``."""
        self.memory.copy_row(self._block, source, target, begin, end)

    def shared_prefixes(self) -> list[list[int]]:
        """Return the length of the prefix that each two rows in use share; empty if unknown."""
        return [row[: self.rows] for row in self._common[: self.rows]]

    def set_rows(self, lengths: Sequence[int], common: Sequence[Sequence[int]]) -> None:
        """Declare what rows hold that were copied from elsewhere: see ``shared_prefixes``."""
        self.lengths = list(lengths)
        self._common = nothing_in_common(self.allocated_rows)
        if self._common:
            for row, shared in enumerate(common):
                self._common[row][: len(shared)] = shared

    def forget(self, row: int, length: int) -> None:
        """Truncate ``row`` to its first ``length`` positions."""
        self.lengths[row] = length
        for other in range(len(self._common)):
            shared = min(self._common[row][other], length)
            self._common[row][other] = self._common[other][row] = shared

    def select_rows(self, sources: Sequence[int], slots: Sequence[range], rows: int) -> list[int]:
        """Reorder the cache to ``rows`` rows; return the new row of each text.

        The row of text ``i`` becomes a copy of row ``sources[i]`` and is one of ``slots[i]``. Rows
        without a text are padding. The cache has new buffers afterwards if it has more rows than
        ever before.
        """
        new_rows = max(rows - self._shape[1], 0)
        if new_rows:
            tracked = list(range(self.rows)) if self._common else []
            self._common = common_of(tracked, self.lengths, self._common, self._shape[1] + new_rows)
        found, copies = place_rows(sources, slots, self._common)
        ordered = in_order(copies)
        old = self.lengths
        parents = [sources[0]] * rows  # a padding row needs a valid length
        for row, source in zip(found, sources, strict=True):
            parents[row] = source
        if new_rows or ordered is None:
            self._move(parents, self._shape[1] + new_rows, self.capacity)
            padding: set[int] = set()
        else:
            for source, target, begin in ordered:
                self.memory.copy_row(self._block, source, target, begin, old[source])
            padding = set(range(rows)) - set(found)
        self._common = common_of(parents, self.lengths, self._common, self._shape[1])
        for row in padding if self._common else ():  # padding rows share no prefix
            self._common[row] = [0] * self._shape[1]
            for others in self._common:
                others[row] = 0
        self.lengths = [old[parent] for parent in parents]
        return found

    def _move(self, parents: Sequence[int], rows: int, capacity: int) -> None:
        """Move to new memory, where row ``i`` is a copy of row ``parents[i]``."""
        layers, _, heads, _, head_size = self._shape
        self._shape = (layers, rows, heads, capacity, head_size)
        old = self._block
        self._allocate()
        for row, parent in enumerate(parents):
            self.memory.copy_out(old, parent, self._block, row, self.lengths[parent])

    def _allocate(self) -> None:
        self._block = self.memory.allocate(self._shape, self._dtype)
        self.buffers: list[Buffer] = [self._block.part(i) for i in range(self._shape[0])]


def nothing_in_common(rows: int) -> list[list[int]]:
    """Return a (rows, rows) table of zeros.

    Entry [i][j] is the length of the prefix that rows i and j share. The table is empty for more
    than ``TRACKED_ROWS`` rows: only beams share long prefixes, and there are few of them. For few
    rows, lists are faster than numpy.
    """
    return [[0] * rows for _ in range(rows)] if rows <= TRACKED_ROWS else []


def common_of(
    parents: Sequence[int], lengths: Sequence[int], before: Sequence[Sequence[int]], rows: int
) -> list[list[int]]:
    """Return the prefixes that ``rows`` rows share once row ``i`` is a copy of ``parents[i]``.

    ``lengths``, ``before``: the lengths and the shared prefixes of the parents.
    """
    common = nothing_in_common(rows)
    if not common or not before:
        return common
    for row, parent in enumerate(parents):
        for other, its_parent in enumerate(parents[:row]):
            shared = lengths[parent] if parent == its_parent else before[parent][its_parent]
            common[row][other] = common[other][row] = shared
    return common


class RowCopy(NamedTuple):
    """Positions to copy from one row to another."""

    source: int
    target: int
    begin: int  # first position to copy; the rows are equal before it


def place_rows(
    sources: Sequence[int], slots: Sequence[range], common: Sequence[Sequence[int]]
) -> tuple[list[int], list[RowCopy]]:
    """Return the new row of each text, and the copies that make it.

    ``sources``: the row that each text continues. ``slots``: the rows that each text may have;
    there are enough for all. ``common``: the table of ``nothing_in_common``; empty if prefixes are
    not tracked.
    """
    rows = [-1] * len(sources)
    taken: set[int] = set()
    for i, (source, allowed) in enumerate(zip(sources, slots, strict=True)):
        if source in allowed and source not in taken:
            rows[i] = source
            taken.add(source)
    copies = []
    for i, (source, allowed) in enumerate(zip(sources, slots, strict=True)):
        if rows[i] < 0:
            free = (row for row in allowed if row not in taken)
            rows[i] = max(free, key=lambda row: common[row][source]) if len(common) else next(free)
            taken.add(rows[i])
            copies.append(RowCopy(source, rows[i], common[rows[i]][source] if len(common) else 0))
    return rows, copies


def in_order(copies: Sequence[RowCopy]) -> list[RowCopy] | None:
    """Order the copies so that none overwrites a row that a later one reads; None if impossible."""
    ordered: list[RowCopy] = []
    waiting = list(copies)
    while waiting:
        read = [copy.source for copy in waiting]
        ready = [copy for copy in waiting if copy.target not in read]
        if not ready:
            return None
        ordered += ready
        waiting = [copy for copy in waiting if copy.target in read]
    return ordered
