"""One call of a decoder's session, bound to memory by address.

While the rows stay the same a step changes numbers in place and calls the session: it binds nothing
and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq.runtime.decoder import Logits
from edgeseq.runtime.kv_cache import KVCache
from edgeseq.runtime.memory import bound_place
from edgeseq.runtime.onnx_runtime import Session, run_until_cancelled


class BoundStep:
    """A call of the session for the cache's rows and ``n`` tokens each, everything bound.

    ``logits``: where those go that ``logits_at`` asks for, unless they go to ``logits_place``.
    """

    def __init__(
        self,
        session: Session,
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
