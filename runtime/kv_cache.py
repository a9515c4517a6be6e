"""Keys and values of every decoder layer, in buffers that the graphs read and write in place.

A decoder's cache holds those of past positions: the graph appends, this module allocates, counts
what is filled, grows and moves rows. After an encoder it also holds those of the sources. Row ``i``
of every buffer belongs to row ``i`` of the batch; rows past ``rows`` are free.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeseq.runtime.manifest import Dimensions
from edgeseq.runtime.memory import Buffer, Memory


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
        self._shape = (rows, dimensions.heads, capacity, head_size)
        self._dtype = np.dtype(dtype)
        self._count = 2 * dimensions.layers
        self.buffers: list[Buffer] = [self._allocate() for _ in range(self._count)]
        self.lengths = [0] * rows  # filled positions of each row in use

    @property
    def rows(self) -> int:
        """Rows in use."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return self._shape[2]

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` positions; the buffers are others afterwards."""
        rows, heads, _, head_size = self._shape
        self._shape = (rows, heads, capacity, head_size)
        for i, old in enumerate(self.buffers):
            self.buffers[i] = self._allocate()
            self.memory.copy_positions(old, self.buffers[i], self.rows, max(self.lengths))

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Row ``i`` goes on from what was row ``parent_rows[i]``; the other rows are dropped."""
        moved = [(row, parent) for row, parent in enumerate(parent_rows) if row != parent]
        if moved:
            targets, sources = zip(*moved, strict=True)
            length = max(self.lengths[source] for source in sources)
            for buffer in self.buffers:
                self.memory.copy_rows(buffer, sources, targets, length)
        self.lengths = [self.lengths[parent] for parent in parent_rows]

    def _allocate(self) -> Buffer:
        return self.memory.allocate(self._shape, self._dtype)
