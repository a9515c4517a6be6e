"""Logits that stay on a device but for the highest ones, where these alone decide."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq.runtime.decoder import Logits
from edgeseq.runtime.device_memory import GRAPHS, DeviceMemory
from edgeseq.runtime.memory import bound_place

TOP_GRAPH = GRAPHS / "top_logits.onnx"


class DeviceLogits:
    """Memory on the device for the logits of up to ``rows`` rows."""

    def __init__(self, memory: DeviceMemory, rows: int, vocabulary: int) -> None:
        self.rows = rows
        self._memory = memory
        self._buffer = memory.allocate((rows, vocabulary), np.dtype(np.float32))
        self._session = memory.session(TOP_GRAPH)
        self._shown: NDArray[np.int64] | None = None  # whose logits are in main memory now
        self._host = np.full((rows, vocabulary), -np.inf, np.float32)

    def place(self, rows: int) -> tuple[Any, ...]:
        """Where the graph writes those of ``rows`` rows, for a binding."""
        return bound_place(self._memory, self._buffer, rows)

    def fetch(self, rows: int, count: int) -> Logits:
        """(rows, vocabulary): the ``count`` highest of each row; the others are -inf."""
        count = min(count, self._buffer.shape[1])
        values, ids = np.empty((rows, count), np.float32), np.empty((rows, count), np.int64)
        binding = self._session.io_binding()
        binding.bind_input("logits", *self.place(rows))
        number = np.array([count])
        binding.bind_input("count", "cpu", 0, number.dtype, number.shape, number.ctypes.data)
        for name, array in (("values", values), ("ids", ids)):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)
        if self._shown is not None:
            np.put_along_axis(self._host[: len(self._shown)], self._shown, -np.inf, axis=1)
        np.put_along_axis(self._host[:rows], ids, values, axis=1)
        self._shown = ids
        return self._host[:rows]
