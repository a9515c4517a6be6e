"""A decoder-only graph, run on preallocated memory.

Inputs, outputs and the cache are bound by address. While the rows stay the same a step changes
numbers in place and calls the session: it binds nothing and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq.runtime.decoder import Logits
from edgeseq.runtime.errors import BundleError
from edgeseq.runtime.kv_cache import KVCache
from edgeseq.runtime.manifest import MANIFEST_NAME, Manifest
from edgeseq.runtime.memory import Memory
from edgeseq.runtime.onnx_runtime import Session

PARTS = ("key", "value")  # of a layer's cache


def check_graph(session: Session, manifest: Manifest) -> None:
    """Raise ``BundleError`` where the graph is not the one that the manifest describes."""
    sizes = manifest.dimensions
    cache: list[int | str] = ["rows", sizes.heads, "capacity", sizes.stored_head_size]
    names = [f"{i}.{part}" for i in range(sizes.layers) for part in PARTS]
    expected: dict[str, list[int | str]] = {
        "input_ids": ["rows", "n"],
        "position_ids": ["rows", "n"],
        "seqlens_k": ["rows"],
        "total_sequence_length": [],
        "logits_at": ["m"],
        "logits": ["m", sizes.vocabulary],
        **{f"past_key_values.{name}": cache for name in names},
        **{f"present.{name}": cache for name in names},
    }
    try:
        values = (*session.get_inputs(), *session.get_outputs())
        found = {value.name: value.shape for value in values}
    except UnicodeDecodeError as error:
        raise BundleError("The decoder graph is damaged: export the bundle again.") from error
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise BundleError(
                f"The decoder graph and {MANIFEST_NAME} disagree: {name} has the shape "
                f"{found.get(name)} where {expected.get(name)} was expected; export the bundle "
                "again."
            )


class OnnxDecoder:
    """The ``Decoder`` over the session of a bundle's ``decoder`` graph (``docs/graph.md``)."""

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        memory: Memory,
        rows: int,
        capacity: int,
    ) -> None:
        self._session = session
        self._cache = KVCache(manifest.dimensions, manifest.kv_cache.dtype, memory, rows, capacity)
        self._logits = np.empty((rows, manifest.dimensions.vocabulary), np.float32)
        self._step: _BoundStep | None = None  # bound for one token a row, made when needed

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Read the prompts, padded on the right: (rows, vocabulary) logits after each."""
        lengths = [len(prompt) for prompt in prompts]
        n = max(lengths)
        step = _BoundStep(self._session, self._cache, self._logits, n)
        step.input_ids.fill(0)
        for row, prompt in enumerate(prompts):
            step.input_ids[row, : len(prompt)] = prompt
        step.position_ids[:] = np.arange(n)
        step.logits_at[:] = np.arange(len(prompts)) * n + lengths - 1
        self._cache.lengths = lengths
        return step.run()

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append one token to each row: (rows, vocabulary) logits after each."""
        if self._step is None:
            self._step = _BoundStep(self._session, self._cache, self._logits, 1)
            self._step.logits_at[:] = np.arange(self._cache.rows)
        self._step.append(tokens)
        return self._step.run()

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Row ``i`` goes on from what was row ``parent_rows[i]``; the other rows are dropped."""
        if len(parent_rows) != self._cache.rows:
            self._step = None
        self._cache.select_rows(parent_rows)


class _BoundStep:
    """A call of the session for the cache's rows and ``n`` tokens each, everything bound."""

    def __init__(self, session: Session, cache: KVCache, logits: Logits, n: int) -> None:
        rows = cache.rows
        self.input_ids = np.empty((rows, n), np.int64)
        self.position_ids = np.empty((rows, n), np.int64)
        self.logits_at = np.empty(rows, np.int64)
        self._seqlens_k = np.empty(rows, np.int32)
        self._total_sequence_length = np.empty((), np.int32)
        # Plain views: writing single numbers through them is cheaper than numpy's own way.
        self._ids = self.input_ids.reshape(-1).data
        self._positions = self.position_ids.reshape(-1).data
        self._last_positions = self._seqlens_k.data
        self._longest = self._total_sequence_length.reshape(1).data
        self._logits = logits[:rows]
        self._cache = cache
        self._run = session.run_with_iobinding
        self._binding = session.io_binding()
        self._bind_host("input_ids", self.input_ids)
        self._bind_host("position_ids", self.position_ids)
        self._bind_host("logits_at", self.logits_at)
        self._bind_host("seqlens_k", self._seqlens_k)
        self._bind_host("total_sequence_length", self._total_sequence_length)
        self._binding.bind_output(
            "logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data
        )
        self._bind_cache()

    def append(self, tokens: Sequence[int]) -> None:
        """Make ``tokens`` the next of each row, for a step of one token a row."""
        lengths = self._cache.lengths
        for row, token in enumerate(tokens):
            self._ids[row] = token
            self._positions[row] = lengths[row]
            lengths[row] += 1

    def run(self) -> Logits:
        """Run on what the arrays hold; the cache's lengths already count this step."""
        lengths = self._cache.lengths
        for row, length in enumerate(lengths):
            self._last_positions[row] = length - 1
        self._longest[0] = max(lengths)
        self._run(self._binding)
        return self._logits

    def _bind_host(self, name: str, array: NDArray[Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _bind_cache(self) -> None:
        device = self._cache.memory.device_type, self._cache.memory.device_id
        for i, buffer in enumerate(self._cache.buffers):
            name = f"{i // 2}.{PARTS[i % 2]}"
            place = (buffer.dtype, (self._cache.rows, *buffer.shape[1:]), buffer.address)
            self._binding.bind_input(f"past_key_values.{name}", *device, *place)
            self._binding.bind_output(f"present.{name}", *device, *place)
