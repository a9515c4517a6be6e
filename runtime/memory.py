"""Where the cache lives.

A memory kind allocates buffers that ONNX Runtime binds by their address and moves rows inside
them. The step runner knows no other way to touch the cache, so that a new device adds a memory
kind and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Buffer:
    """A stretch of a device's memory with a shape."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any  # keeps the memory alive


class Memory(Protocol):
    """A kind of memory, by ONNX Runtime's name for the device."""

    device_type: str
    device_id: int

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """Memory of ``shape``, its contents undefined."""

    def copy_rows(
        self, buffer: Buffer, sources: Sequence[int], targets: Sequence[int], length: int
    ) -> None:
        """All at once, row ``targets[i]`` becomes what row ``sources[i]`` was.

        ``buffer``: (rows, heads, capacity, head_size); the first ``length`` positions are copied.
        """

    def copy_positions(self, old: Buffer, new: Buffer, rows: int, length: int) -> None:
        """Copy the first ``length`` positions of the first ``rows`` rows into a larger buffer."""


class CpuMemory:
    """The machine's main memory.

    Linux and macOS give pages when they are first written, so that a buffer for the longest text
    that may come costs only what the text reaches; Windows counts all of it against its limit.
    """

    device_type = "cpu"
    device_id = 0

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        array = np.empty(shape, dtype)
        return Buffer(array.ctypes.data, shape, dtype, array)

    def copy_rows(
        self, buffer: Buffer, sources: Sequence[int], targets: Sequence[int], length: int
    ) -> None:
        array = buffer.owner
        array[list(targets), :, :length] = array[list(sources), :, :length]

    def copy_positions(self, old: Buffer, new: Buffer, rows: int, length: int) -> None:
        new.owner[:rows, :, :length] = old.owner[:rows, :, :length]
