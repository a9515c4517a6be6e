"""The keys and values of past positions, in buffers that are allocated once per generation.

The graph appends in place; this module allocates, counts what is filled and moves rows. Row ``i``
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
        self, dimensions: Dimensions, dtype: str, memory: Memory, rows: int, capacity: int
    ) -> None:
        shape = (rows, dimensions.heads, capacity, dimensions.stored_head_size)
        self.memory = memory
        self.capacity = capacity
        self.buffers: list[Buffer] = [
            memory.allocate(shape, np.dtype(dtype)) for _ in range(2 * dimensions.layers)
        ]
        self.lengths = [0] * rows  # filled positions of each row in use

    @property
    def rows(self) -> int:
        """Rows in use."""
        return len(self.lengths)

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Row ``i`` goes on from what was row ``parent_rows[i]``; the other rows are dropped."""
        moved = [(row, parent) for row, parent in enumerate(parent_rows) if row != parent]
        if moved:
            targets, sources = zip(*moved, strict=True)
            length = max(self.lengths[source] for source in sources)
            for buffer in self.buffers:
                self.memory.copy_rows(buffer, sources, targets, length)
        self.lengths = [self.lengths[parent] for parent in parent_rows]
