"""Run an encoder graph: compute the cross-attention keys and values of sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..bundle.graph_contract import layer_names
from ..bundle.manifest import Manifest
from ..decoder import never
from .binding import Binding
from .kv_cache import KVCache
from .memory import Memory

# Padded lengths are multiples of this, so that attention gives a source the same bits alone and
# beside longer sources.
SOURCE_MULTIPLE = 16


class EncodedSources:
    """The encoder output of sources, once they are read: one row of keys and values per source."""

    def __init__(self, binding: Binding, cache: KVCache) -> None:
        self.cache = cache
        self._binding = binding
        self._is_read = False

    def read(self, cancelled: Callable[[], bool] = never) -> KVCache:
        """Encode the sources at the first call; return the encoder output.

        Raises ``CancelledError`` once ``cancelled`` returns True.
        """
        if not self._is_read:
            tokens = self.cache.rows * self.cache.capacity
            self._binding.run_until_cancelled(tokens, cancelled)
            self._is_read = True
        return self.cache


class OnnxEncoder:
    """The session of a bundle's ``encoder`` graph (``docs/how-it-works/graph.md``)."""

    def __init__(self, session: Any, manifest: Manifest, memory: Memory) -> None:
        self._session = session
        self._manifest = manifest
        self._memory = memory

    def prepare(self, sources: Sequence[Sequence[int]]) -> EncodedSources:
        """Bind the sources, padded on the right, and memory for the encoder output."""
        lengths = [len(source) for source in sources]
        padded = max(lengths) + -max(lengths) % SOURCE_MULTIPLE
        input_ids = np.zeros((len(sources), padded), np.int64)
        for row, source in enumerate(sources):
            input_ids[row, : len(source)] = source
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
        binding = Binding(self._session)
        binding.input_array("input_ids", input_ids)
        binding.input_array("source_lengths", np.array(lengths, np.int32))
        for name, buffer in zip(layer_names(sizes), encoded.buffers, strict=True):
            binding.output_buffer(f"cross.{name}", self._memory, buffer, encoded.rows)
        return EncodedSources(binding, encoded)
