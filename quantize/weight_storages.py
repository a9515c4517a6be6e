"""Storages: how a weight is stored, rounded and multiplied.

A storage declares everything that the quantizer does with a weight. To add one, write its class
here and name it in a recipe (``recipes.py``). Products are calls of functions that edgeseq's own
kernels compute where they are available (``graph/functions.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .graph.functions import BIASED_ROW_LINEAR, BLOCK_LINEAR, BLOCK_LOOKUP, ROW_LINEAR
from .rounding import Codes, Curvature, Run, round_weight

if TYPE_CHECKING:
    from .graph.network import Layer
    from .graph.writer import GraphWriter

BLOCK_SIZES = (32, 64, 128, 256)  # sizes that MatMulNBits and edgeseq's kernels support
LARGEST_CODE = 127
SEEN_OUTPUTS = 8192  # most outputs on which an error is measured
LARGEST_PART_BYTES = 10 * 2**20  # most bytes of a weight in one product, roughly
PART_MULTIPLE = 64  # outputs of a part are a multiple: kernels compute several at once


class Storage(ABC):
    """A way to store a weight, and to multiply with it."""

    rounds_inputs: ClassVar[bool] = False  # whether products round activations, so smoothing helps
    runs_on_cuda: ClassVar[bool] = True  # whether CUDA has kernels for the products
    keeps_float32: ClassVar[bool] = False  # whether the weight and its nodes stay unchanged
    has_codes: ClassVar[bool] = True  # whether weights are rounded to integers
    block_size: int | None = None  # number of weights that share a scale; None: no blocks

    def round(
        self, weight: NDArray[np.float32], curvature: Curvature | None, run: Run = map
    ) -> Codes | None:
        """Round a weight, (inputs, outputs), to codes; None if the storage has no codes."""
        return None

    def stored_bytes(self, inputs: int, outputs: int) -> int:
        """Return the size of a weight in the weights file, roughly."""
        return 4 * inputs * outputs

    def output_error(
        self, weight: NDArray[np.float32], codes: Codes | None, rows: NDArray[np.float32] | None
    ) -> float:
        """Return the squared error of a layer's outputs, as a share of the squared outputs.

        ``rows``: inputs, (tokens, inputs); None: any inputs, with the same weight each. Of the
        outputs of a large weight some are looked at, spread over all.
        """
        if codes is None:
            return 0.0
        step = -(-weight.shape[1] // SEEN_OUTPUTS)
        weight, stored = weight[:, ::step], codes.every(step).weight()
        if rows is None:
            exact, error = weight, np.subtract(stored, weight, out=stored)
        else:
            exact = rows @ weight
            error = self.rounded_inputs(rows) @ stored - exact
        total = float(np.vdot(exact, exact))
        return float(np.vdot(error, error)) / total if total else 0.0

    def rounded_inputs(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a layer's inputs as its product reads them."""
        return rows

    def with_block_size(self, size: int) -> Storage | None:
        """Return the same storage with another block size; None if it has no blocks."""
        return None

    @abstractmethod
    def multiply(self, graph: GraphWriter, layer: Layer, codes: Codes | None, node: Any) -> None:
        """Write to ``graph`` the nodes that multiply with the weight of ``layer``.

        ``node``: the product node that they replace.
        """

    @abstractmethod
    def look_up(
        self, graph: GraphWriter, table: str, codes: Codes | None, ids: str, output: str
    ) -> None:
        """Write to ``graph`` the nodes that look up the rows ``ids`` of ``table``."""


@dataclass(frozen=True)
class DynamicInt8(Storage):
    """8-bit activations, one scale per token, times 7-bit weights, one scale per column.

    CPUs without VNNI sum u8 x s8 products in 16 bits. With weights from -64 to 63 these sums cannot
    overflow, so the integers are the same on every CPU.

    A row of zeros has the scale 0. Its codes (0 / 0) are undefined, but times the scale they are 0
    again, so the scale needs no lower bound.
    """

    bits: ClassVar[int] = 7
    rounds_inputs: ClassVar[bool] = True
    runs_on_cuda: ClassVar[bool] = False

    def __str__(self) -> str:
        return "int8 by rows"

    def round(
        self, weight: NDArray[np.float32], curvature: Curvature | None, run: Run = map
    ) -> Codes:
        return round_weight(
            weight, bits=self.bits, group_size=len(weight), curvature=curvature, run=run
        )

    def stored_bytes(self, inputs: int, outputs: int) -> int:
        return (inputs + 4) * outputs

    def rounded_inputs(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return round_rows(rows)

    def multiply(self, graph: GraphWriter, layer: Layer, codes: Codes | None, node: Any) -> None:
        assert codes is not None
        weight, scales = f"{layer.weight}.int8", f"{layer.weight}.scales"
        by_output = graph.store_once(codes, "codes", lambda: np.ascontiguousarray(codes.codes.T))
        graph.refer(weight, *by_output)
        graph.external(scales, codes.scales[0])
        name = BIASED_ROW_LINEAR if layer.bias else ROW_LINEAR
        bias = [layer.bias] if layer.bias else []
        graph.call(name, [layer.input, weight, scales, *bias], node.output[0])

    def look_up(
        self, graph: GraphWriter, table: str, codes: Codes | None, ids: str, output: str
    ) -> None:
        raise TypeError(f"A table is stored in blocks or float16, not as {self}.")


@dataclass(frozen=True)
class Blockwise(Storage):
    """Weights of ``bits`` bits in blocks along the input, one scale each (``MatMulNBits``).

    Scales are 16-bit floats, unless the weight has larger numbers.

    On the CPU each block of activations is rounded to 8 bits, with a scale of its own.
    """

    rounds_inputs: ClassVar[bool] = True
    bits: Literal[4, 8]
    block_size: int

    def __str__(self) -> str:
        return f"int{self.bits} in blocks of {self.block_size}"

    def with_block_size(self, size: int) -> Blockwise:
        return replace(self, block_size=size)

    def round(
        self, weight: NDArray[np.float32], curvature: Curvature | None, run: Run = map
    ) -> Codes:
        return round_weight(
            weight,
            bits=self.bits,
            group_size=self.block_size,
            half_scales=True,
            curvature=curvature,
            run=run,
        )

    def stored_bytes(self, inputs: int, outputs: int) -> int:
        blocks = -(-inputs // self.block_size)
        return blocks * outputs * (self.block_size * self.bits // 8 + 2)

    def rounded_inputs(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        tokens, inputs = rows.shape
        blocks = np.pad(rows, ((0, 0), (0, -inputs % self.block_size)))
        rounded = round_rows(blocks.reshape(-1, self.block_size))
        return rounded.reshape(tokens, -1)[:, :inputs]

    def multiply(self, graph: GraphWriter, layer: Layer, codes: Codes | None, node: Any) -> None:
        """Write one product, or several that divide the outputs; each product adds its bias."""
        assert codes is not None
        output = node.output[0]
        inputs, outputs = codes.codes.shape
        data, data_at = graph.store_once(codes, "blocks", lambda: _packed(codes, self))
        scales, scales_at = graph.store_once(codes, "scales", lambda: _half_scales(codes))
        ends = _part_ends(outputs, data.nbytes)
        parts = [output] if len(ends) == 1 else [f"{output}.to_{end}" for end in ends]
        for part, begin, end in zip(parts, [0, *ends], ends, strict=False):
            which = part.removeprefix(output)
            weight = f"{layer.weight}.int{self.bits}{which}"
            steps = f"{layer.weight}.scales{which}"
            graph.refer(weight, data[begin:end], data_at + data[:begin].nbytes)
            graph.refer(steps, scales[begin:end].reshape(-1), scales_at + scales[:begin].nbytes)
            graph.call(
                BLOCK_LINEAR[self.bits],
                [layer.input, weight, steps, self._bias(graph, layer, which, begin, end)],
                part,
                K=inputs,
                N=end - begin,
                bits=self.bits,
                block_size=self.block_size,
            )
        if len(parts) > 1:
            graph.node("Concat", parts, output, axis=1)

    def look_up(
        self, graph: GraphWriter, table: str, codes: Codes | None, ids: str, output: str
    ) -> None:
        assert codes is not None
        inputs, outputs = codes.codes.shape
        rows, row_scales = f"{table}.rows", f"{table}.row_scales"
        data, data_at = graph.store_once(codes, "blocks", lambda: _packed(codes, self))
        graph.refer(rows, data.reshape(outputs, -1), data_at)
        graph.refer(row_scales, *graph.store_once(codes, "scales", lambda: _half_scales(codes)))
        padded = len(codes.scales) * self.block_size != inputs
        graph.call(
            BLOCK_LOOKUP,
            [rows, ids, row_scales],
            f"{output}.padded" if padded else output,
            bits=self.bits,
            block_size=self.block_size,
        )
        if padded:
            bounds = [
                graph.constant(f"{table}.{name}", np.array([value]))
                for name, value in (("first", 0), ("end", inputs), ("axis", 1))
            ]
            graph.node("Slice", [f"{output}.padded", *bounds], output)

    def _bias(self, graph: GraphWriter, layer: Layer, part: str, begin: int, end: int) -> str:
        """Return the name of a part of the layer's bias; "" without one."""
        if not layer.bias:
            return ""
        name, bias = f"{layer.bias}{part}", graph.network.weights[layer.bias]
        graph.refer(name, bias[begin:end], graph.store(bias) + bias[:begin].nbytes)
        return name


@dataclass(frozen=True)
class Float16(Storage):
    """Weights and products in 16-bit floats, between 32-bit activations."""

    has_codes: ClassVar[bool] = False

    def __str__(self) -> str:
        return "float16"

    def stored_bytes(self, inputs: int, outputs: int) -> int:
        return 2 * inputs * outputs

    def multiply(self, graph: GraphWriter, layer: Layer, codes: Codes | None, node: Any) -> None:
        activations, output = node.input[0], node.output[0]
        if graph.is_first(f"{activations}.half"):
            graph.node("Cast", [activations], f"{activations}.half", to=graph.FLOAT16)
        weights = [self._weight(graph, name) for name in node.input[1:]]
        graph.copy_node(node, [f"{activations}.half", *weights], f"{output}.product")
        graph.node("Cast", [f"{output}.product"], output, to=graph.FLOAT)

    def look_up(
        self, graph: GraphWriter, table: str, codes: Codes | None, ids: str, output: str
    ) -> None:
        graph.node("Gather", [self._weight(graph, table), ids], f"{output}.half")
        graph.node("Cast", [f"{output}.half"], output, to=graph.FLOAT)

    def _weight(self, graph: GraphWriter, name: str) -> str:
        graph.external(f"{name}.half", np.asarray(graph.network.weights[name], np.float16))
        return f"{name}.half"


@dataclass(frozen=True)
class Float32(Storage):
    """Unchanged weights and products."""

    has_codes: ClassVar[bool] = False
    keeps_float32: ClassVar[bool] = True

    def __str__(self) -> str:
        return "float32"

    def multiply(self, graph: GraphWriter, layer: Layer, codes: Codes | None, node: Any) -> None:
        graph.keep(node)

    def look_up(
        self, graph: GraphWriter, table: str, codes: Codes | None, ids: str, output: str
    ) -> None:
        graph.node("Gather", [table, ids], output)


class Rounded(NamedTuple):
    """A weight as it is stored; ``codes``: None if the storage has no codes."""

    storage: Storage
    codes: Codes | None


def round_to(
    weight: NDArray[np.float32], storage: Storage, curvature: Curvature | None, run: Run = map
) -> Rounded | None:
    """Return a weight, (inputs, outputs), as it is stored; None if it stays unchanged."""
    if storage.keeps_float32:
        return None
    return Rounded(storage, storage.round(np.asarray(weight), curvature, run))


RoundedWeights = Mapping[str, Rounded]  # rounded weights by name


def round_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return activations, (tokens, inputs), rounded to 8 bits with one scale per token."""
    step = np.abs(rows).max(axis=1, keepdims=True) / LARGEST_CODE
    step[step == 0] = 1
    rounded: NDArray[np.float32] = np.rint(rows / step) * step
    return rounded


def _part_ends(outputs: int, size_bytes: int) -> list[int]:
    """Return the ends of the parts in which a layer's outputs are computed.

    While ONNX Runtime packs a weight, it holds the weight twice. An lm_head is by far the largest
    weight and is packed last: in one piece it would set the program's peak memory.
    """
    count = -(-size_bytes // LARGEST_PART_BYTES)
    size = -(-outputs // count)
    size += -size % PART_MULTIPLE
    return [*range(size, outputs, size), outputs]


def _packed(codes: Codes, storage: Blockwise) -> NDArray[np.uint8]:
    """Return the codes as MatMulNBits reads them, (outputs, blocks, bytes of a block).

    The last block is padded.
    """
    inputs, outputs = codes.codes.shape
    blocks = len(codes.scales)
    zero = 1 << (storage.bits - 1)
    unsigned = np.full((outputs, blocks * storage.block_size), zero, np.uint8)
    unsigned[:, :inputs] = (codes.codes.T.astype(np.int16) + zero).astype(np.uint8)
    if storage.bits == 8:
        return unsigned.reshape(outputs, blocks, -1)
    pairs = unsigned[:, 0::2] | np.left_shift(unsigned[:, 1::2], 4, dtype=np.uint8)
    return pairs.reshape(outputs, blocks, -1)


def _scales(codes: Codes) -> NDArray[np.float32]:
    """Return the scales as MatMulNBits reads them, (outputs, blocks)."""
    return np.ascontiguousarray(codes.scales.T)


def _half_scales(codes: Codes) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return the scales, (outputs, blocks), as 16-bit floats if these represent them."""
    scales = _scales(codes)
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16)
    return halves if np.array_equal(halves.astype(np.float32), scales) else scales
