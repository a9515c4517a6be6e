"""Where the cache lives.

A memory kind allocates buffers that ONNX Runtime binds by their address and moves rows inside
them. The step runner knows no other way to touch the cache, so that a new device adds a memory
kind and nothing else.
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


@dataclass(frozen=True)
class Buffer:
    """A stretch of a device's memory with a shape."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any  # keeps the memory alive

    def part(self, index: int) -> Buffer:
        """What is at ``index`` of the first dimension."""
        shape = self.shape[1:]
        step = math.prod(shape) * self.dtype.itemsize
        return Buffer(self.address + index * step, shape, self.dtype, self.owner)


class Memory(Protocol):
    """A kind of memory, by ONNX Runtime's name for the device.

    The blocks that are copied in are (layers, rows, heads, capacity, head_size).
    """

    device_type: str
    device_id: int

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """Memory of ``shape``, its contents undefined."""

    def copy_row(self, block: Buffer, source: int, target: int, begin: int, end: int) -> None:
        """Positions from ``begin`` to ``end`` of row ``target`` become those of ``source``."""

    def copy_out(self, block: Buffer, source: int, other: Buffer, target: int, length: int) -> None:
        """The first ``length`` positions of a row of ``other`` become those of one of ``block``."""


def bound_place(memory: Memory, buffer: Buffer, rows: int | None = None) -> tuple[Any, ...]:
    """Where ONNX Runtime finds ``buffer``, or its first ``rows``: what a binding takes."""
    shape = buffer.shape if rows is None else (rows, *buffer.shape[1:])
    return memory.device_type, memory.device_id, buffer.dtype, shape, buffer.address


class CpuMemory:
    """The machine's main memory.

    Linux and macOS give pages when they are first written, so that a buffer for the longest text
    that may come costs only what the text reaches; Windows counts all of it against its limit.
    """

    device_type = "cpu"
    device_id = 0

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        try:
            array = np.empty(shape, dtype)
        except MemoryError as error:
            size = math.prod(shape) * dtype.itemsize
            raise DeviceError(
                f"There is no memory for {size / 2**20:,.0f} MiB of keys and values: ask for fewer "
                "beams, texts or tokens."
            ) from error
        return Buffer(array.ctypes.data, shape, dtype, array)

    def copy_row(self, block: Buffer, source: int, target: int, begin: int, end: int) -> None:
        array = block.owner
        array[:, target, :, begin:end] = array[:, source, :, begin:end]

    def copy_out(self, block: Buffer, source: int, other: Buffer, target: int, length: int) -> None:
        other.owner[:, target, :, :length] = block.owner[:, source, :, :length]


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
