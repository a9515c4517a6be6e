"""A decoder graph, run on preallocated memory.

Calls are bound once and used again (``bound_step.py``) as long as the rows stay the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.graph_contract import layer_names
from ..bundle.manifest import Manifest
from ..decoder import CancelledError, Logits, chunk_ends, lone_tail, never
from .graph_session import GraphSession, run_until_cancelled
from .kv_cache import KVCache
from .memory import DeviceLogits, Memory, bound_place
from .onnx_encoder import Sources

# Tokens of a prompt that are read at once, where there is only one, by what the cache holds: what
# was fastest for prompts of 512 tokens (GPT-2 124M). Attention to 8-bit keys slows down beyond it.
CHUNKS = {"float32": 256, "int8": 128, "float16": 256}
KEPT_STEPS = 32  # tokens that are read at once without binding everything anew each time
FIRST_CAPACITY = 1024  # positions that a cache has room for before it grows


class OnnxDecoder:
    """The ``Decoder`` over the session of a bundle's ``decoder`` graph (``docs/graph.md``).

    ``rows``: those that are prefilled. ``capacity``: positions that a row can reach. ``sources``:
    after an encoder, the rows' sources, which are read before the first tokens. The graph wants
    the rows of a source together, and as many for each: rows that nobody asked for fill up, and no
    logits are computed for them. ``device_logits``: from a number of rows to memory for their
    logits on a device, where they need not all come back.
    """

    def __init__(
        self,
        session: GraphSession,
        manifest: Manifest,
        memory: Memory,
        *,
        rows: int,
        capacity: int,
        sources: Sources | None = None,
        device_logits: Callable[[int], DeviceLogits] | None = None,
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
        self._unread = sources
        self._sources = None if sources is None else sources.cache
        self._owners = list(range(rows))  # after an encoder: the source of each row
        self._rows = list(range(rows))  # where each row is in the cache
        self._vocabulary = sizes.vocabulary
        self._logits = np.empty((rows, sizes.vocabulary), np.float32)
        self._new_device_logits = device_logits
        self._device_logits: DeviceLogits | None = None
        self._best: int | None = None  # logits of a row that count, where there is a device
        self._guessed: Logits | None = None  # those of a few tokens that are read at once
        self._steps: dict[int, BoundStep] = {}  # by tokens a row, bound when they are needed

    def prefill(
        self, prompts: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never
    ) -> Logits:
        """Read the prompts, padded on the right: (rows, vocabulary) logits after each.

        A single prompt is read in chunks, between which ``cancelled`` is asked. They are as fast as
        the whole, or faster, and the memory for what is between the layers does not grow with the
        prompt. ONNX Runtime's attention refuses several rows there; these are read at once.
        """
        if self._unread is not None:
            self._unread.read(cancelled)
        if len(prompts) == 1:
            self._make_room(self._cache.lengths[0] + len(prompts[0]))
            for begin, end in self._chunks(len(prompts[0])):
                if begin and cancelled():
                    raise CancelledError(read=begin)
                chunk = prompts[0][begin:end]
                self._read_at(self._bind(len(chunk), self._logits, self._best), chunk)
            return self._fetched(self._logits)
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        n = longest + lone_tail(longest, self._tile)
        self._make_room(n)
        step = self._bind(n, self._logits, self._best)
        step.input_ids.fill(0)
        for row, prompt in enumerate(prompts):
            step.input_ids[row, : len(prompt)] = prompt
        step.position_ids[:] = np.minimum(np.arange(n), longest - 1)
        step.logits_at[:] = np.arange(len(prompts)) * n + lengths - 1
        self._cache.lengths = lengths
        return self._fetched(step.run_padded(n, cancelled))

    def keep_best(self, count: int | None) -> None:
        """Only so many of a row's highest logits have to come back from a device."""
        if self._new_device_logits is not None and count != self._best:
            self._best = count
            self._steps.clear()

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append one token to each row: (rows, vocabulary) logits after each."""
        self._make_room(max(self._cache.lengths) + 1)
        step = self._steps.get(1)
        if step is None:
            step = self._steps[1] = self._bind(1, self._logits[: len(self._rows)], self._best)
            step.set_rows(self._rows)
        step.append(tokens)
        return self._fetched(step.run())

    def read(self, tokens: Sequence[int]) -> Logits:
        """Append ``tokens`` to the only row: (tokens, vocabulary) logits after each of them."""
        if self._unread is not None:
            self._unread.read()
        [length] = self._cache.lengths
        n = len(tokens)
        self._make_room(length + n)
        if 1 < n <= KEPT_STEPS and not lone_tail(n, self._tile):
            step = self._steps.get(n)
            if step is None:
                if self._guessed is None:  # one for all numbers of tokens
                    self._guessed = self._new_logits(KEPT_STEPS)
                step = self._steps[n] = self._bind(n, self._guessed[:n])
            return self._read_at(step, tokens)
        logits = self._new_logits(n)
        for begin, end in self._chunks(n):
            self._read_chunk(tokens[begin:end], logits[begin:end])
        return logits

    def forget(self, count: int) -> None:
        """The only row forgets its last ``count`` tokens."""
        [length] = self._cache.lengths
        self._cache.forget(0, length - count)

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Row ``i`` goes on from what was row ``parent_rows[i]``; the other rows are dropped."""
        if len(parent_rows) > len(self._logits):
            self._logits = self._new_logits(len(parent_rows))
            self._steps.clear()
        cache, buffers = self._cache, self._cache.buffers
        places, rows = self._places(parent_rows)
        if rows != cache.rows or len(parent_rows) != len(self._rows):
            self._steps.clear()
        parents = [self._rows[row] for row in parent_rows]
        self._rows = cache.select_rows(parents, places, rows)
        if cache.buffers is not buffers:
            self._steps.clear()
        elif 1 in self._steps:
            self._steps[1].set_rows(self._rows)

    def close(self) -> None:
        """The generation is over; there is nothing to do."""

    def fork(self) -> OnnxDecoder:
        """Another decoder whose only row holds what the only row of this one does."""
        other = copy(self)
        other._cache = self._cache.fork()
        other._steps, other._guessed, other._device_logits = {}, None, None
        other._logits = self._new_logits(1)
        return other

    def cache_bytes(self, positions: int) -> int:
        """Memory for ``positions`` of one row, with what an encoder made of the source."""
        size = positions * self._cache.position_bytes
        if self._sources is not None:
            size += self._sources.rows * self._sources.capacity * self._sources.position_bytes
        return size

    def _places(self, parent_rows: Sequence[int]) -> tuple[list[range], int]:
        """The places in the cache that each row may have, and how many there are."""
        if self._sources is None:
            rows = len(parent_rows)
            return [range(rows)] * rows, rows
        owners = [self._owners[row] for row in parent_rows]
        live = list(dict.fromkeys(owners))
        if len(live) < self._sources.rows:
            count = len(live)
            found = self._sources.select_rows(live, [range(count)] * count, count)
            moved = dict(zip(live, found, strict=True))
            owners = [moved[owner] for owner in owners]
            self._steps.clear()
        self._owners = owners
        group = max(Counter(owners).values())
        places = [range(owner * group, (owner + 1) * group) for owner in owners]
        return places, group * len(live)

    def _chunks(self, count: int) -> Iterator[tuple[int, int]]:
        return pairwise([0, *chunk_ends(count, self._chunk, self._tile)])

    def _read_chunk(self, tokens: Sequence[int], logits: Logits) -> None:
        """Append ``tokens`` to the only row; ``logits`` are those after the last of them."""
        self._read_at(self._bind(len(tokens), logits), tokens)

    def _read_at(self, step: BoundStep, tokens: Sequence[int]) -> Logits:
        [length] = self._cache.lengths
        n = len(tokens)
        step.input_ids[0] = tokens
        step.position_ids[0] = np.arange(length, length + n)
        step.logits_at[:] = np.arange(n - len(step.logits_at), n)
        self._cache.lengths = [length + n]
        return step.run()

    def _make_room(self, length: int) -> None:
        capacity = self._cache.capacity
        if length > capacity:
            self._steps.clear()
            self._cache.grow(max(length, min(self._capacity, 2 * capacity)))

    def _new_logits(self, rows: int) -> Logits:
        return np.empty((rows, self._vocabulary), np.float32)

    def _bind(self, n: int, logits: Logits, best: int | None = None) -> BoundStep:
        place = None if best is None else self._on_device(len(logits)).place(len(logits))
        return BoundStep(self._session, self._cache, self._sources, self._names, logits, n, place)

    def _on_device(self, rows: int) -> DeviceLogits:
        assert self._new_device_logits is not None  # else no number of logits is kept
        if self._device_logits is None or self._device_logits.rows < rows:
            self._device_logits = self._new_device_logits(rows)
        return self._device_logits

    def _fetched(self, logits: Logits) -> Logits:
        """``logits``, or the best of those that are on the device."""
        if self._best is None:
            return logits
        return self._on_device(len(logits)).fetch(len(logits), self._best)


class BoundStep:
    """A call of the session for the cache's rows and ``n`` tokens each, everything bound.

    ``logits``: where those go that ``logits_at`` asks for, unless they go to ``logits_place``.
    """

    def __init__(
        self,
        session: GraphSession,
        cache: KVCache,
        sources: KVCache | None,
        names: Sequence[str],
        logits: Logits,
        n: int,
        logits_place: tuple[Any, ...] | None = None,
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
        self._session = session
        self._run = session.run_with_iobinding
        self._binding = session.io_binding()
        # Other providers than the CPU's copy an input when it is bound, not when it is run.
        self._copied: list[tuple[Any, ...]] | None = (
            [] if getattr(session, "copies_inputs", False) else None
        )
        self._bind_host("input_ids", self.input_ids)
        self._bind_host("position_ids", self.position_ids)
        self._bind_host("logits_at", self.logits_at)
        self._bind_host("seqlens_k", self._seqlens_k)
        self._bind_host("total_sequence_length", self._total_sequence_length)
        host = "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data
        self._binding.bind_output("logits", *(logits_place or host))
        self._bind_buffers("past_key_values", cache, names)
        if sources is not None:
            self._source_lengths = np.array(sources.lengths, np.int32)
            self._bind_host("source_lengths", self._source_lengths)
            self._bind_buffers("cross", sources, names)

    def set_rows(self, rows: Sequence[int]) -> None:
        """Say which row of the cache each token of ``append`` is for: one token a row."""
        self._rows = rows
        self._padding = [row for row in range(self._cache.rows) if row not in rows]
        self.logits_at[:] = rows

    def append(self, tokens: Sequence[int]) -> None:
        """Make ``tokens`` the next of each row."""
        self._put(self._rows, tokens)
        if self._padding:
            self._put(self._padding, [0] * len(self._padding))

    def _put(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        lengths = self._cache.lengths
        for row, token in zip(rows, tokens, strict=True):
            self._ids[row] = token
            self._positions[row] = lengths[row]
            lengths[row] += 1

    def run(self) -> Logits:
        """Run on what the arrays hold; the cache's lengths already count this step."""
        self._say_lengths(0)
        self._run(self._binding)
        return self._logits

    def run_padded(self, total: int, cancelled: Callable[[], bool]) -> Logits:
        """The same for rows of tokens of which the padding reaches to position ``total``.

        Once ``cancelled`` it ends with ``CancelledError``, and the cache is undefined.
        """
        self._say_lengths(total)
        run_until_cancelled(self._session, self._binding, self.input_ids.size, cancelled)
        return self._logits

    def _say_lengths(self, total: int) -> None:
        lengths = self._cache.lengths
        for row, length in enumerate(lengths):
            self._last_positions[row] = length - 1
        self._longest[0] = max(total, *lengths)
        if self._copied is not None:
            for place in self._copied:
                self._binding.bind_input(*place)

    def _bind_host(self, name: str, array: NDArray[Any]) -> None:
        self._bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _bind_input(self, *place: Any) -> None:
        if self._copied is not None and place[1] == "cpu":
            self._copied.append(place)
        self._binding.bind_input(*place)

    def _bind_buffers(self, prefix: str, cache: KVCache, names: Sequence[str]) -> None:
        for name, buffer in zip(names, cache.buffers, strict=True):
            place = bound_place(cache.memory, buffer, cache.rows)
            self._bind_input(f"{prefix}.{name}", *place)
            if cache is self._cache:
                self._binding.bind_output(f"present.{name}", *place)
