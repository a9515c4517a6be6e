"""An encoder graph: from sources to the keys and values that the decoder reads at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..bundle.graph_contract import layer_names
from ..bundle.manifest import Manifest
from ..decoder import never
from .graph_session import GraphSession, run_until_cancelled
from .kv_cache import KVCache
from .memory import Memory, bound_place

# Attention gives the same bits alone and beside longer sources when lengths are multiples of it.
SOURCE_MULTIPLE = 16


class Sources:
    """What an encoder makes of sources: a row of keys and values for each, once they are read."""

    def __init__(self, session: GraphSession, cache: KVCache, binding: Any, *bound: Any) -> None:
        self.cache = cache
        self._session = session
        self._binding = binding
        self._bound = bound  # memory that the binding knows by its address
        self._is_read = False

    def read(self, cancelled: Callable[[], bool] = never) -> KVCache:
        """Read them, unless they are. Ctrl-C ends it; on ``cancelled`` ``CancelledError`` does."""
        if not self._is_read:
            tokens = self.cache.rows * self.cache.capacity
            run_until_cancelled(self._session, self._binding, tokens, cancelled)
            self._is_read = True
        return self.cache


class OnnxEncoder:
    """The session of a bundle's ``encoder`` graph (``docs/graph.md``)."""

    def __init__(self, session: GraphSession, manifest: Manifest, memory: Memory) -> None:
        self._session = session
        self._manifest = manifest
        self._memory = memory

    def prepare(self, sources: Sequence[Sequence[int]]) -> Sources:
        """The sources, padded on the right, and memory for what is made of them."""
        lengths = [len(source) for source in sources]
        padded = max(lengths) + -max(lengths) % SOURCE_MULTIPLE
        input_ids = np.zeros((len(sources), padded), np.int64)
        for row, source in enumerate(sources):
            input_ids[row, : len(source)] = source
        source_lengths = np.array(lengths, np.int32)
        sizes = self._manifest.dimensions
        encoded = KVCache(
            sizes,
            "float32",
            self._memory,
            rows=len(sources),
            capacity=padded,
            head_size=sizes.head_size,
        )
        encoded.lengths = lengths
        binding = self._session.io_binding()
        for name, array in (("input_ids", input_ids), ("source_lengths", source_lengths)):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, buffer in zip(layer_names(sizes), encoded.buffers, strict=True):
            binding.bind_output(f"cross.{name}", *bound_place(self._memory, buffer, encoded.rows))
        return Sources(self._session, encoded, binding, input_ids, source_lengths)
