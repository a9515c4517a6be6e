"""The recipes: what each kind of weight is stored and multiplied as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BLOCK_SIZES = (16, 32, 64, 128, 256)  # what MatMulNBits takes


@dataclass(frozen=True)
class Rows:
    """8-bit activations, one scale a token, times 7-bit weights, one scale a column.

    Sums of u8 x s8 products in 16 bits, as CPUs without VNNI make them, cannot overflow with
    weights from -64 to 63: the integers are the same on every CPU.
    """

    def __str__(self) -> str:
        return "int8 by rows"


@dataclass(frozen=True)
class Blocks:
    """Weights of ``bits`` in blocks along the input, each with a scale (``MatMulNBits``)."""

    bits: Literal[4, 8]
    block_size: int

    def __str__(self) -> str:
        return f"int{self.bits} in blocks of {self.block_size}"


@dataclass(frozen=True)
class Float16:
    """Weights and products in 16-bit floats."""

    def __str__(self) -> str:
        return "float16"


@dataclass(frozen=True)
class Float32:
    """As it is."""

    def __str__(self) -> str:
        return "float32"


Storage = Rows | Blocks | Float16 | Float32
