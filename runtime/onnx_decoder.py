"""A decoder graph, run on preallocated memory.

Inputs, outputs and the cache are bound by address. While the rows stay the same a step changes
numbers in place and calls the session: it binds nothing and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq.runtime.chunks import chunk_ends, lone_tail
from edgeseq.runtime.decoder import Logits
from edgeseq.runtime.graph_contract import layer_names
from edgeseq.runtime.kv_cache import KVCache
from edgeseq.runtime.manifest import Manifest
from edgeseq.runtime.memory import Buffer, Memory
from edgeseq.runtime.onnx_runtime import Session

# Tokens of a prompt that are read at once, where there is only one, by what the cache holds: what
# was fastest for prompts of 512 tokens (GPT-2 124M). Attention to 8-bit keys slows down beyond it.
CHUNKS = {"float32": 256, "int8": 128}
FIRST_CAPACITY = 1024  # positions that a cache has room for before it grows


class OnnxDecoder:
    """The ``Decoder`` over the session of a bundle's ``decoder`` graph (``docs/graph.md``).

    ``capacity``: positions that a row can reach. ``sources``: after an encoder, the keys and values
    of the batch's sources; each has the same number of rows, which stand together.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        memory: Memory,
        *,
        rows: int,
        capacity: int,
        sources: KVCache | None = None,
    ) -> None:
        sizes = manifest.dimensions
        self._session = session
        self._capacity = capacity
        self._cache = KVCache(
            sizes,
            manifest.kv_cache.dtype,
            memory,
            rows=rows,
            capacity=min(capacity, FIRST_CAPACITY),
            head_size=sizes.stored_head_size,
        )
        self._chunk = CHUNKS[manifest.kv_cache.dtype]
        self._tile = 2 * sizes.stored_head_size
        self._names = layer_names(sizes)
        self._sources = sources
        self._rows_per_source = rows // sources.rows if sources else 1
        self._vocabulary = sizes.vocabulary
        self._logits = np.empty((rows, sizes.vocabulary), np.float32)
        self._step: _BoundStep | None = None  # bound for one token a row, made when needed

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Read the prompts, padded on the right: (rows, vocabulary) logits after each.

        A single prompt is read in chunks. They are as fast as the whole, or faster, and the memory
        for what is between the layers does not grow with the prompt. ONNX Runtime's attention
        refuses several rows there.
        """
        if len(prompts) == 1:
            self._make_room(len(prompts[0]))
            for begin, end in self._chunks(len(prompts[0])):
                self._read_chunk(prompts[0][begin:end], self._logits)
            return self._logits
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        n = longest + lone_tail(longest, self._tile)
        self._make_room(n)
        step = self._bind(n, self._logits)
        step.input_ids.fill(0)
        for row, prompt in enumerate(prompts):
            step.input_ids[row, : len(prompt)] = prompt
        step.position_ids[:] = np.minimum(np.arange(n), longest - 1)
        step.logits_at[:] = np.arange(len(prompts)) * n + lengths - 1
        self._cache.lengths = lengths
        return step.run(n)

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append one token to each row: (rows, vocabulary) logits after each."""
        self._make_room(max(self._cache.lengths) + 1)
        if self._step is None:
            self._step = self._bind(1, self._logits[: self._cache.rows])
            self._step.logits_at[:] = np.arange(self._cache.rows)
        self._step.append(tokens)
        return self._step.run()

    def read(self, tokens: Sequence[int]) -> Logits:
        """Append ``tokens`` to the only row: (tokens, vocabulary) logits after each of them."""
        [length] = self._cache.lengths
        self._make_room(length + len(tokens))
        logits = np.empty((len(tokens), self._vocabulary), np.float32)
        for begin, end in self._chunks(len(tokens)):
            self._read_chunk(tokens[begin:end], logits[begin:end])
        return logits

    def _chunks(self, count: int) -> Iterator[tuple[int, int]]:
        return pairwise([0, *chunk_ends(count, self._chunk, self._tile)])

    def _read_chunk(self, tokens: Sequence[int], logits: Logits) -> None:
        """Append ``tokens`` to the only row; ``logits`` are those after the last of them."""
        [length] = self._cache.lengths
        n = len(tokens)
        step = self._bind(n, logits)
        step.input_ids[0] = tokens
        step.position_ids[0] = np.arange(length, length + n)
        step.logits_at[:] = np.arange(n - len(logits), n)
        self._cache.lengths = [length + n]
        step.run()

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Row ``i`` goes on from what was row ``parent_rows[i]``; the other rows are dropped."""
        if len(parent_rows) != self._cache.rows:
            self._step = None
        self._cache.select_rows(parent_rows)
        if self._sources is not None:
            group = self._rows_per_source
            parents = [row // group for row in parent_rows[::group]]
            if parents != list(range(self._sources.rows)):
                self._step = None
                self._sources.select_rows(parents)

    def _make_room(self, length: int) -> None:
        capacity = self._cache.capacity
        if length > capacity:
            self._step = None
            self._cache.grow(max(length, min(self._capacity, 2 * capacity)))

    def _bind(self, n: int, logits: Logits) -> _BoundStep:
        return _BoundStep(self._session, self._cache, self._sources, self._names, logits, n)


class _BoundStep:
    """A call of the session for the cache's rows and ``n`` tokens each, everything bound.

    ``logits``: where those go that ``logits_at`` asks for.
    """

    def __init__(
        self,
        session: Session,
        cache: KVCache,
        sources: KVCache | None,
        names: Sequence[str],
        logits: Logits,
        n: int,
    ) -> None:
        rows = cache.rows
        self.input_ids = np.empty((rows, n), np.int64)
        self.position_ids = np.empty((rows, n), np.int64)
        self.logits_at = np.empty(len(logits), np.int64)
        self._seqlens_k = np.empty(rows, np.int32)
        self._total_sequence_length = np.empty((), np.int32)
        # Plain views: writing single numbers through them is cheaper than numpy's own way.
        self._ids = self.input_ids.reshape(-1).data
        self._positions = self.position_ids.reshape(-1).data
        self._last_positions = self._seqlens_k.data
        self._longest = self._total_sequence_length.reshape(1).data
        self._logits = logits
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
        self._bind_buffers("past_key_values", cache, names)
        if sources is not None:
            self._source_lengths = np.array(sources.lengths, np.int32)
            self._bind_host("source_lengths", self._source_lengths)
            self._bind_buffers("cross", sources, names)

    def append(self, tokens: Sequence[int]) -> None:
        """Make ``tokens`` the next of each row, for a step of one token a row."""
        lengths = self._cache.lengths
        for row, token in enumerate(tokens):
            self._ids[row] = token
            self._positions[row] = lengths[row]
            lengths[row] += 1

    def run(self, total: int = 0) -> Logits:
        """Run on what the arrays hold; the cache's lengths already count this step.

        ``total``: positions that are read at least, where padding goes beyond the longest row.
        """
        lengths = self._cache.lengths
        for row, length in enumerate(lengths):
            self._last_positions[row] = length - 1
        self._longest[0] = max(total, *lengths)
        self._run(self._binding)
        return self._logits

    def _bind_host(self, name: str, array: NDArray[Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _bind_buffers(self, prefix: str, cache: KVCache, names: Sequence[str]) -> None:
        for name, buffer in zip(names, cache.buffers, strict=True):
            place = bound_place(cache, buffer)
            self._binding.bind_input(f"{prefix}.{name}", *place)
            if cache is self._cache:
                self._binding.bind_output(f"present.{name}", *place)


def bound_place(cache: KVCache, buffer: Buffer) -> tuple[Any, ...]:
    """Where ONNX Runtime finds the rows in use of one of the cache's buffers."""
    device = cache.memory.device_type, cache.memory.device_id
    return *device, buffer.dtype, (cache.rows, *buffer.shape[1:]), buffer.address
