"""Memory of a device, which Python cannot reach: rows are copied there by a small graph.

The graph (``graphs/copy_*.onnx``, made by ``export/device_graphs.py``) gathers positions of one
block and scatters them into another, whose memory its output is bound to: only these move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq.runtime.errors import DeviceError
from edgeseq.runtime.memory import Buffer, bound_place

GRAPHS = Path(__file__).parent / "graphs"


class DeviceMemory:
    """A ``Memory`` of the device ``device_type`` (as ONNX Runtime names it) number ``device_id``.

    ``allocate_there``: from a shape and a type to a tensor of ONNX Runtime's on the device.
    ``open_graph``: from a graph's file to a session on the device.
    """

    def __init__(
        self,
        device_type: str,
        device_id: int,
        allocate_there: Callable[[Sequence[int], np.dtype[Any]], Any],
        open_graph: Callable[[Path], Any],
    ) -> None:
        self.device_type = device_type
        self.device_id = device_id
        self._allocate_there = allocate_there
        self._open_graph = open_graph
        self._sessions: dict[Path, Any] = {}
        self._lock = Lock()

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        try:
            value = self._allocate_there(shape, dtype)
        except Exception as error:  # ONNX Runtime's own kinds, which this module does not know
            size = math.prod(shape) * dtype.itemsize
            raise DeviceError(
                f"There is no memory on the device for {size / 2**20:,.0f} MiB of keys and values: "
                "ask for fewer beams, texts or tokens."
            ) from error
        return Buffer(value.data_ptr(), shape, dtype, value)

    def copy_row(self, block: Buffer, source: int, target: int, begin: int, end: int) -> None:
        self._copy(block, source, block, target, begin, end)

    def copy_out(self, block: Buffer, source: int, other: Buffer, target: int, length: int) -> None:
        self._copy(block, source, other, target, 0, length)

    def _copy(
        self, block: Buffer, source: int, other: Buffer, target: int, begin: int, end: int
    ) -> None:
        if begin >= end:
            return
        session = self.session(GRAPHS / f"copy_{block.dtype.name}.onnx")
        binding = session.io_binding()
        places = {
            "from": _places(block, source, begin, end),
            "to": _places(other, target, begin, end),
        }
        for name, array in places.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, buffer in (("source", block), ("target", other)):
            binding.bind_input(name, *bound_place(self, buffer))
        binding.bind_output("copied", *bound_place(self, other))
        session.run_with_iobinding(binding)

    def session(self, graph: Path) -> Any:
        """The session over one of ``GRAPHS``, opened once."""
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self._open_graph(graph)
            return self._sessions[graph]


def _places(block: Buffer, row: int, begin: int, end: int) -> NDArray[np.int64]:
    """(positions of all layers and heads, 4): where each is in (layers, rows, heads, capacity)."""
    layers, _, heads, _, _ = block.shape
    places = np.empty((layers, heads, end - begin, 4), np.int64)
    places[..., 0] = np.arange(layers)[:, None, None]
    places[..., 1] = row
    places[..., 2] = np.arange(heads)[:, None]
    places[..., 3] = np.arange(begin, end)
    return places.reshape(-1, 4)
