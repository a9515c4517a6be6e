"""Memory that sessions read and write by address: main memory or device memory.

A kind of memory allocates buffers and moves rows of the KV cache inside them. The decoder uses
the cache only through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..decoder import Logits
from ..errors import DeviceError

GRAPHS = Path(__file__).parent / "graphs"
TOP_GRAPH = GRAPHS / "top_logits.onnx"


@dataclass(frozen=True)
class Buffer:
    """A part of a memory, with a shape and a dtype."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any  # keeps the memory alive

    def part(self, index: int) -> Buffer:
        """Return the part at ``index`` of the first dimension."""
        shape = self.shape[1:]
        step = math.prod(shape) * self.dtype.itemsize
        return Buffer(self.address + index * step, shape, self.dtype, self.owner)


class Memory(Protocol):
    """A kind of memory. Blocks to copy in are (layers, rows, heads, capacity, head_size)."""

    device_type: str  # ONNX Runtime's name, such as "cuda"
    device_id: int

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """Return memory of ``shape`` with undefined contents; ``DeviceError`` if there is none."""

    def copy_row(self, block: Buffer, source: int, target: int, begin: int, end: int) -> None:
        """Copy positions ``begin`` to ``end`` from row ``source`` to row ``target``."""

    def copy_out(self, block: Buffer, source: int, other: Buffer, target: int, length: int) -> None:
        """Copy the first ``length`` positions of row ``source`` to row ``target`` of ``other``."""


def host_place(array: NDArray[Any]) -> tuple[Any, ...]:
    """Return the arguments that bind an array in main memory."""
    return "cpu", 0, array.dtype, array.shape, array.ctypes.data


def address_of(memory: Memory, buffer: Buffer, rows: int | None = None) -> tuple[Any, ...]:
    """Return the arguments that bind ``buffer``, or its first ``rows``."""
    shape = buffer.shape if rows is None else (rows, *buffer.shape[1:])
    return memory.device_type, memory.device_id, buffer.dtype, shape, buffer.address


class CpuMemory:
    """The machine's main memory.

    Linux and macOS provide a page when it is first written. A buffer for the longest possible text
    therefore uses memory only up to the text's length. Windows counts the whole buffer against its
    limit.
    """

    device_type = "cpu"
    device_id = 0

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        try:
            array = np.empty(shape, dtype)
        except MemoryError as error:
            raise DeviceError(_no_memory("main memory", shape, dtype)) from error
        return Buffer(array.ctypes.data, shape, dtype, array)

    def copy_row(self, block: Buffer, source: int, target: int, begin: int, end: int) -> None:
        array = block.owner
        array[:, target, :, begin:end] = array[:, source, :, begin:end]

    def copy_out(self, block: Buffer, source: int, other: Buffer, target: int, length: int) -> None:
        other.owner[:, target, :, :length] = block.owner[:, source, :, :length]


class DeviceMemory:
    """Device memory. A small ONNX graph copies rows, because Python cannot access the memory.

    The graph (``graphs/copy_*.onnx``, written by ``export/graphs/device_graphs.py``) gathers
    positions of one block and scatters them into another. Its output is bound to the memory of the
    other block, so nothing else is copied.

    ``device_type``, ``device_id``: the device, as ONNX Runtime names it. ``allocate_there``:
    returns a tensor of ONNX Runtime on the device for a shape and a dtype. ``open_graph``: returns
    a session on the device for the file of a graph.
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
            raise DeviceError(_no_memory("device memory", shape, dtype)) from error
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
        indices = {
            "from": _indices(block, source, begin, end),
            "to": _indices(other, target, begin, end),
        }
        for name, array in indices.items():
            binding.bind_input(name, *host_place(array))
        for name, buffer in (("source", block), ("target", other)):
            binding.bind_input(name, *address_of(self, buffer))
        binding.bind_output("copied", *address_of(self, other))
        session.run_with_iobinding(binding)

    def session(self, graph: Path) -> Any:
        """Return the session over one of ``GRAPHS``; it is opened once."""
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self._open_graph(graph)
            return self._sessions[graph]


class DeviceLogits:
    """Logits of up to ``rows`` rows on a device; only the highest of a row are fetched."""

    def __init__(self, memory: DeviceMemory, rows: int, vocabulary: int) -> None:
        self.rows = rows
        self.memory = memory
        self.buffer = memory.allocate((rows, vocabulary), np.dtype(np.float32))
        self._session = memory.session(TOP_GRAPH)
        self._shown: NDArray[np.int64] | None = None  # ids whose logits main memory holds now
        self._host = np.full((rows, vocabulary), -np.inf, np.float32)

    def fetch(self, rows: int, count: int) -> Logits:
        """Return (rows, vocabulary): the ``count`` highest logits of each row, -inf elsewhere."""
        count = min(count, self.buffer.shape[1])
        values, ids = np.empty((rows, count), np.float32), np.empty((rows, count), np.int64)
        binding = self._session.io_binding()
        binding.bind_input("logits", *address_of(self.memory, self.buffer, rows))
        number = np.array([count])
        binding.bind_input("count", *host_place(number))
        for name, array in (("values", values), ("ids", ids)):
            binding.bind_output(name, *host_place(array))
        self._session.run_with_iobinding(binding)
        if self._shown is not None:
            np.put_along_axis(self._host[: len(self._shown)], self._shown, -np.inf, axis=1)
        np.put_along_axis(self._host[:rows], ids, values, axis=1)
        self._shown = ids
        return self._host[:rows]


def _indices(block: Buffer, row: int, begin: int, end: int) -> NDArray[np.int64]:
    """Return (n, 4): layer, row, head and position of all positions of a row to copy."""
    layers, _, heads, _, _ = block.shape
    indices = np.empty((layers, heads, end - begin, 4), np.int64)
    indices[..., 0] = np.arange(layers)[:, None, None]
    indices[..., 1] = row
    indices[..., 2] = np.arange(heads)[:, None]
    indices[..., 3] = np.arange(begin, end)
    return indices.reshape(-1, 4)


def _no_memory(kind: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    size_mib = math.prod(shape) * dtype.itemsize / 2**20
    return f"{size_mib:,.0f} MiB of {kind} cannot be allocated: use fewer beams, prompts or tokens."
