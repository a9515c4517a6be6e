"""Keys and values of every decoder layer, in one stretch of memory that the graphs read and write.

A decoder's cache holds those of past positions: the graph appends, this module allocates, counts
what is filled, grows and copies rows. After an encoder it also holds those of the sources. Row i of
every buffer belongs to row ``i`` of the graph's batch; rows past ``rows`` are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np

from ..bundle.manifest import Dimensions
from .memory import Buffer, Memory

TRACKED_ROWS = 64


class KVCache:
    """``buffers``: per layer the keys, then the values, each (rows, heads, capacity, head_size)."""

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
        self._common = _nothing_in_common(rows)

    @property
    def rows(self) -> int:
        """Rows in use."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return self._shape[3]

    @property
    def position_bytes(self) -> int:
        """What a position of a row takes."""
        layers, _, heads, _, head_size = self._shape
        return layers * heads * head_size * self._dtype.itemsize

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` positions; the buffers are others afterwards."""
        self._move(list(range(self.rows)), self._shape[1], capacity)

    def fork(self) -> KVCache:
        """A copy of the first row, with memory of its own."""
        other = copy(self)
        other._move([0], 1, self.capacity)
        other.lengths = self.lengths[:1]
        other._common = _nothing_in_common(1)
        return other

    def forget(self, row: int, length: int) -> None:
        """Only the first ``length`` positions of ``row`` count from now on."""
        self.lengths[row] = length
        for other in range(len(self._common)):
            shared = min(self._common[row][other], length)
            self._common[row][other] = self._common[other][row] = shared

    def select_rows(self, sources: Sequence[int], places: Sequence[range], rows: int) -> list[int]:
        """Rows in use become ``rows``; each text's row, which goes on from that of ``sources``.

        ``places``: the rows that each text may have. Rows that no text has are padding. The buffers
        are others afterwards if there are more rows than ever before.
        """
        new_rows = max(rows - self._shape[1], 0)
        if new_rows:
            tracked = list(range(self.rows)) if self._common else []
            self._common = self._common_of(tracked, self._shape[1] + new_rows)
        found, copies = place_rows(sources, places, self._common)
        ordered = in_order(copies)
        old = self.lengths
        parents = [sources[0]] * rows  # padding is as long as some text, so that it can be run
        for row, source in zip(found, sources, strict=True):
            parents[row] = source
        if new_rows or ordered is None:
            self._move(parents, self._shape[1] + new_rows, self.capacity)
            padding: set[int] = set()
        else:
            for source, target, begin in ordered:
                self.memory.copy_row(self._block, source, target, begin, old[source])
            padding = set(range(rows)) - set(found)
        self._common = self._common_of(parents, self._shape[1])
        for row in padding if self._common else ():  # whatever is there
            self._common[row] = [0] * self._shape[1]
            for others in self._common:
                others[row] = 0
        self.lengths = [old[parent] for parent in parents]
        return found

    def _common_of(self, parents: Sequence[int], rows: int) -> list[list[int]]:
        """What ``rows`` rows share of which the first have become those of ``parents``."""
        common = _nothing_in_common(rows)
        if not common:
            return common
        for row, parent in enumerate(parents):
            for other, its_parent in enumerate(parents[:row]):
                same = parent == its_parent
                shared = self.lengths[parent] if same else self._common[parent][its_parent]
                common[row][other] = common[other][row] = shared
        return common

    def _move(self, parents: Sequence[int], rows: int, capacity: int) -> None:
        """Into new memory, where row ``i`` is what ``parents[i]`` was."""
        layers, _, heads, _, head_size = self._shape
        self._shape = (layers, rows, heads, capacity, head_size)
        old = self._block
        self._allocate()
        for row, parent in enumerate(parents):
            self.memory.copy_out(old, parent, self._block, row, self.lengths[parent])

    def _allocate(self) -> None:
        self._block = self.memory.allocate(self._shape, self._dtype)
        self.buffers: list[Buffer] = [self._block.part(i) for i in range(self._shape[0])]


def _nothing_in_common(rows: int) -> list[list[int]]:
    """The positions that two rows share, by row and row; empty for more than are tracked.

    Lists, which are faster than numpy for a few rows. Only beams share much, and they are few.
    """
    return [[0] * rows for _ in range(rows)] if rows <= TRACKED_ROWS else []


class RowCopy(NamedTuple):
    """Positions that one row takes over from another."""

    source: int
    target: int
    begin: int  # what is before it is the same in both


def place_rows(
    sources: Sequence[int], places: Sequence[range], common: Sequence[Sequence[int]]
) -> tuple[list[int], list[RowCopy]]:
    """The new row of each text, and what to copy for it.

    ``sources``: the row that each goes on from. ``places``: the rows that each may have, of which
    there are enough. ``common``: for each row and each other, how many positions they share from
    the first on; empty if that is not known.
    """
    rows = [-1] * len(sources)
    taken: set[int] = set()
    for i, (source, allowed) in enumerate(zip(sources, places, strict=True)):
        if source in allowed and source not in taken:
            rows[i] = source
            taken.add(source)
    copies = []
    for i, (source, allowed) in enumerate(zip(sources, places, strict=True)):
        if rows[i] < 0:
            free = (row for row in allowed if row not in taken)
            rows[i] = max(free, key=lambda row: common[row][source]) if len(common) else next(free)
            taken.add(rows[i])
            copies.append(RowCopy(source, rows[i], common[rows[i]][source] if len(common) else 0))
    return rows, copies


def in_order(copies: Sequence[RowCopy]) -> list[RowCopy] | None:
    """The copies such that none overwrites what a later one reads; None if that cannot be."""
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
