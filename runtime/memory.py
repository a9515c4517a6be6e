"""Where the cache lives.

A memory kind allocates buffers that ONNX Runtime binds by their address and moves rows inside
them. The step runner knows no other way to touch the cache, so that a new device adds a memory
kind and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgeseq.runtime.errors import DeviceError


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
