"""The ``Decoder`` over the session of a bundle's decoder graph (``docs/how-it-works/graph.md``).

Everything that a step reads and writes is bound by address. While the rows stay the same, a decode
step changes numbers in place and calls the session: it binds nothing and allocates nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..bundle.graph_contract import layer_names
from ..bundle.manifest import Manifest
from ..decoder import CancelledError, Logits, chunk_ends, lone_tail, never
from .binding import Binding
from .kv_cache import KVCache
from .memory import DeviceLogits, Memory
from .onnx_encoder import EncodedSources

# Tokens per chunk of a single prompt, by the dtype of the KV cache: the fastest sizes for prompts
# of 512 tokens (GPT-2 124M). Attention to 8-bit keys is slower in larger chunks.
CHUNKS = {"float32": 256, "int8": 128, "float16": 256}
KEPT_STEPS = 32  # longest step, in tokens, that stays bound
FIRST_CAPACITY = 1024  # positions of a cache before it grows


class OnnxDecoder:
    """A KV cache for the rows of one generation, and bound steps over it.

    - ``session``: the session over the decoder graph.
    - ``rows``: the number of prefilled rows.
    - ``capacity``: most positions per row.
    - ``sources``: with an encoder, the rows' sources, which are encoded before the first tokens are
      read. The graph needs the rows of a source together, and equally many rows per source: padding
      rows complete a group, and no logits are computed for them.
    - ``device_logits``: allocates logits on the device for a number of rows; None: all logits go to
      main memory.
    """

    def __init__(
        self,
        session: Any,
        manifest: Manifest,
        memory: Memory,
        *,
        rows: int,
        capacity: int,
        sources: EncodedSources | None = None,
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
        self._owners = list(range(rows))  # source of each row, after an encoder
        self._rows = list(range(rows))  # the cache row of each row
        self._vocabulary = sizes.vocabulary
        self._logits = np.empty((rows, sizes.vocabulary), np.float32)
        self._new_device_logits = device_logits
        self._device_logits: DeviceLogits | None = None
        self._best: int | None = None  # logits per row to fetch from the device
        self._guessed: Logits | None = None  # logits of bound steps of several tokens
        self._steps: dict[int, BoundStep] = {}  # bound steps by tokens per row, made when needed

    def prefill(
        self, prompts: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never
    ) -> Logits:
        """Read the prompts, padded on the right; return (rows, vocabulary) logits after each.

        A single prompt is read in chunks, which are at least as fast as the whole prompt, and
        memory for activations does not grow with the prompt. ONNX Runtime's attention refuses
        chunks of several rows, which are therefore read at once. ``cancelled`` is called between
        the chunks of a single prompt, and repeatedly while a long batch of prompts or a long source
        is read. Raises ``CancelledError`` once it returns True.
        """
        if self._unread is not None:
            self._unread.read(cancelled)
        if len(prompts) == 1:
            self._make_room(self._cache.lengths[0] + len(prompts[0]))
            for begin, end in self._chunks(len(prompts[0])):
                if begin and cancelled():
                    raise CancelledError(read=begin)
                chunk = prompts[0][begin:end]
                self._bind(len(chunk), self._logits, self._best).read(chunk)
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
        """Fetch only the ``count`` highest logits of a row from a device; None: all."""
        if self._new_device_logits is not None and count != self._best:
            self._best = count
            self._steps.clear()

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append one token to each row; return (rows, vocabulary) logits after each."""
        self._make_room(max(self._cache.lengths) + 1)
        step = self._steps.get(1)
        if step is None:
            step = self._steps[1] = self._bind(1, self._logits[: len(self._rows)], self._best)
            step.set_rows(self._rows)
        step.append(tokens)
        return self._fetched(step.run())

    def read(self, tokens: Sequence[int]) -> Logits:
        """Append ``tokens`` to the only row; return (tokens, vocabulary) logits after each."""
        if self._unread is not None:
            self._unread.read()
        [length] = self._cache.lengths
        n = len(tokens)
        self._make_room(length + n)
        if 1 < n <= KEPT_STEPS and not lone_tail(n, self._tile):
            step = self._steps.get(n)
            if step is None:
                if self._guessed is None:  # shared by all numbers of tokens
                    self._guessed = self._new_logits(KEPT_STEPS)
                step = self._steps[n] = self._bind(n, self._guessed[:n])
            return step.read(tokens)
        logits = self._new_logits(n)
        for begin, end in self._chunks(n):
            self._bind(end - begin, logits[begin:end]).read(tokens[begin:end])
        return logits

    def forget(self, count: int) -> None:
        """Drop the last ``count`` tokens of the only row."""
        [length] = self._cache.lengths
        self._cache.forget(0, length - count)

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Reorder the cache: row ``i`` becomes a copy of row ``parent_rows[i]``; drop others."""
        self._logits = self._logits_for(len(parent_rows))
        cache, buffers = self._cache, self._cache.buffers
        slots, rows = self._slots(parent_rows)
        if rows != cache.rows or len(parent_rows) != len(self._rows):
            self._steps.clear()
        parents = [self._rows[row] for row in parent_rows]
        self._rows = cache.select_rows(parents, slots, rows)
        if cache.buffers is not buffers:
            self._steps.clear()
        elif 1 in self._steps:
            self._steps[1].set_rows(self._rows)

    def close(self) -> None:
        """End the generation; memory is freed with the decoder."""

    def pause(self) -> None:
        """End a call. Nothing needs to be done: the memory is the decoder's own."""

    def content(self) -> Content:
        """Return the caches, and what their rows hold."""
        return Content(self._cache, self._rows, self._sources)

    def release(self) -> None:
        """Free the memory of the caches, whose content was copied; ``restore`` puts it back."""
        self._steps.clear()
        self._cache = self._cache.released()
        if self._sources is not None:
            self._sources = self._sources.released()
        self._unread = None  # it was read, and holds the memory too

    def restore(self, content: Content) -> None:
        """Continue with caches that were copied from elsewhere."""
        self._steps.clear()
        self._cache, self._rows, self._sources = content
        if self._sources is not None:
            group = self._cache.rows // self._sources.rows
            self._owners = [row // group for row in self._rows]
        self._logits = self._logits_for(len(self._rows))

    @property
    def limit(self) -> int:
        """The most positions that a row may have."""
        return self._capacity

    def room_for(self, length: int) -> int:
        """Return a capacity with room for ``length`` positions and some more."""
        return max(length, min(self._capacity, max(FIRST_CAPACITY, 2 * length)))

    def fork(self) -> OnnxDecoder:
        """Return another decoder whose only row is a copy of this decoder's only row."""
        other = copy(self)
        other._cache = self._cache.fork()
        other._steps, other._guessed, other._device_logits = {}, None, None
        other._logits = self._new_logits(1)
        return other

    def cache_bytes(self, positions: int) -> int:
        """Return the bytes of memory for ``positions`` of one row, with its encoder output."""
        size = positions * self._cache.position_bytes
        if self._sources is not None:
            size += self._sources.rows * self._sources.capacity * self._sources.position_bytes
        return size

    def _slots(self, parent_rows: Sequence[int]) -> tuple[list[range], int]:
        """Return the cache rows that each row may have, and how many cache rows there are."""
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
        slots = [range(owner * group, (owner + 1) * group) for owner in owners]
        return slots, group * len(live)

    def _chunks(self, count: int) -> Iterator[tuple[int, int]]:
        return pairwise([0, *chunk_ends(count, self._chunk, self._tile)])

    def _make_room(self, length: int) -> None:
        capacity = self._cache.capacity
        if length > capacity:
            self._steps.clear()
            self._cache.grow(max(length, min(self._capacity, 2 * capacity)))

    def _logits_for(self, rows: int) -> Logits:
        """Return memory for the logits of at least ``rows`` rows."""
        if rows <= len(self._logits):
            return self._logits
        self._steps.clear()
        return self._new_logits(rows)

    def _new_logits(self, rows: int) -> Logits:
        return np.empty((rows, self._vocabulary), np.float32)

    def _bind(self, n: int, logits: Logits, best: int | None = None) -> BoundStep:
        on_device = None if best is None else self._on_device(len(logits))
        return BoundStep(
            self._session, self._cache, self._sources, self._names, logits, n, on_device
        )

    def _on_device(self, rows: int) -> DeviceLogits:
        assert self._new_device_logits is not None  # else `_best` is None
        if self._device_logits is None or self._device_logits.rows < rows:
            self._device_logits = self._new_device_logits(rows)
        return self._device_logits

    def _fetched(self, logits: Logits) -> Logits:
        """Return ``logits``, or the highest logits of each row from the device."""
        if self._best is None:
            return logits
        return self._on_device(len(logits)).fetch(len(logits), self._best)


class Content(NamedTuple):
    """The caches of a decoder.

    ``cache``: with an encoder, the rows of source ``i`` are rows ``i * group`` to ``(i + 1) *
    group``. ``rows``: the cache row of each text; other rows are padding. ``sources``: the encoder
    output.
    """

    cache: KVCache
    rows: list[int]
    sources: KVCache | None


class BoundStep(Binding):
    """A bound run of the session: ``n`` tokens for each of the cache's rows.

    ``logits``: (m, vocabulary), the output at ``logits_at``, unless ``on_device`` is given.
    """

    def __init__(
        self,
        session: Any,
        cache: KVCache,
        sources: KVCache | None,
        names: Sequence[str],
        logits: Logits,
        n: int,
        on_device: DeviceLogits | None = None,
    ) -> None:
        super().__init__(session)
        self.native.is_step = n == 1
        rows = cache.rows
        self.input_ids = np.empty((rows, n), np.int64)
        self.position_ids = np.empty((rows, n), np.int64)
        self.logits_at = np.empty(len(logits), np.int64)
        self._seqlens_k = np.empty(rows, np.int32)
        self._total_sequence_length = np.empty((), np.int32)
        # Memory views: writing single numbers through them is faster than through numpy.
        self._ids = self.input_ids.reshape(-1).data
        self._positions = self.position_ids.reshape(-1).data
        self._last_positions = self._seqlens_k.data
        self._longest = self._total_sequence_length.reshape(1).data
        self._logits = logits
        self._cache = cache
        self.input_array("input_ids", self.input_ids)
        self.input_array("position_ids", self.position_ids)
        self.input_array("logits_at", self.logits_at)
        self.input_array("seqlens_k", self._seqlens_k)
        self.input_array("total_sequence_length", self._total_sequence_length)
        if on_device is None:
            self.output_array("logits", logits)
        else:
            self.output_buffer("logits", on_device.memory, on_device.buffer, len(logits))
        for name, buffer in zip(names, cache.buffers, strict=True):
            self.input_buffer(f"past_key_values.{name}", cache.memory, buffer, rows)
            self.output_buffer(f"present.{name}", cache.memory, buffer, rows)
        if sources is not None:
            self.input_array("source_lengths", np.array(sources.lengths, np.int32))
            for name, buffer in zip(names, sources.buffers, strict=True):
                self.input_buffer(f"cross.{name}", sources.memory, buffer, sources.rows)

    def set_rows(self, rows: Sequence[int]) -> None:
        """Set the cache row of each token of ``append``; other rows are padding."""
        self._rows = rows
        self._padding = sorted(set(range(self._cache.rows)).difference(rows))
        self.logits_at[:] = rows

    def set_logits(self, logits: Logits) -> None:
        """Write the logits of later runs to other memory of the same shape."""
        self._logits = logits
        self.output_array("logits", logits)

    def append(self, tokens: Sequence[int]) -> None:
        """Make ``tokens`` the next token of each row."""
        self._put(self._rows, tokens)
        if self._padding:
            self._put(self._padding, [0] * len(self._padding))

    def _put(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        lengths = self._cache.lengths
        for row, token in zip(rows, tokens, strict=True):
            self._ids[row] = token
            self._positions[row] = lengths[row]
            lengths[row] += 1

    def read(self, tokens: Sequence[int]) -> Logits:
        """Append ``tokens`` to the only row; return the logits after the last m of them.

        The logits are (m, vocabulary), where m is the number of rows of ``logits``.
        """
        [length] = self._cache.lengths
        n = len(tokens)
        self.input_ids[0] = tokens
        self.position_ids[0] = np.arange(length, length + n)
        self.logits_at[:] = np.arange(n - len(self.logits_at), n)
        self._cache.lengths = [length + n]
        return self.run()

    def run(self) -> Logits:
        """Run on the values of the arrays; the cache's lengths already count this step."""
        self._write_lengths(0)
        self.session.run_with_iobinding(self.native)
        return self._logits

    def run_padded(self, total: int, cancelled: Callable[[], bool]) -> Logits:
        """Run on rows that are padded up to position ``total``.

        Raises ``CancelledError`` once ``cancelled`` returns True; the cache is then undefined.
        """
        self._write_lengths(total)
        self.run_until_cancelled(self.input_ids.size, cancelled)
        return self._logits

    def _write_lengths(self, total: int) -> None:
        lengths = self._cache.lengths
        for row, length in enumerate(lengths):
            self._last_positions[row] = length - 1
        self._longest[0] = max(total, *lengths)
        self.copy_inputs()
