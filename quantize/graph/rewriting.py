"""Graphs with quantized weights: each node that reads one is replaced by nodes that read its codes.

    x, W                      ->  y         Rows: 8-bit activations, one scale a token
    Abs, ReduceMax, Mul       ->  scale     (tokens,): the largest magnitude / 127
    QuantizeLinear            ->  codes     (tokens, inputs) uint8, 128 is zero
    MatMulInteger, DequantizeLinear, Mul -> y

Layers that read the same tensor share its codes; what Relu gives needs no Abs. A row of zeros
has the scale 0, and whatever integer 0 / 0 becomes, times that scale it is 0 again: a floor under
the scale would be one more node for nothing. ``MatMulNBits`` adds a bias itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...runtime.bundle.weights_file import SMALL_TENSOR_ALIGNMENT_BYTES, WeightsFile
from ..rounding import Codes
from ..storage import Blocks, Float16, Rows
from .network import Layer, Network

MICROSOFT = "com.microsoft"
ZERO_POINT = 128  # of activations, and of 8-bit weights in blocks
LARGEST_CODE = 127
INTEGER_COMPUTE = 4  # MatMulNBits' accuracy level: activations as 8-bit integers
LARGEST_PART_BYTES = 10 * 2**20
PART_MULTIPLE = 64  # outputs; kernels work on several at once

Rounded = tuple[Rows | Blocks, Codes] | tuple[Float16, None]


class Rewriter:
    """One graph on its way to other nodes; its new weights go to ``weights_file``."""

    def __init__(
        self, network: Network, rounded: Mapping[str, Rounded], weights_file: WeightsFile
    ) -> None:
        self._network = network
        self._rounded = rounded
        self._weights_file = weights_file
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._made: set[str] = set()  # activations that are quantized already

    def model(self) -> onnx.ModelProto:
        """The graph with its new nodes; the network's own stays as it was."""
        network = self._network
        for i, node in enumerate(network.graph.node):
            layer, table = network.layers.get(i), network.tables.get(i)
            if layer is not None and layer.weight in self._rounded:
                self._multiply(layer, node)
            elif table is not None and table in self._rounded:
                self._look_up(table, node.input[1], node.output[0])
            else:
                self._nodes.append(node)
        self._keep_used_weights()
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(self._nodes)
        # In this order ONNX Runtime writes packed weights, and kernels take their alignment for
        # granted (runtime/prepacked.py): what would shift the others comes last.
        model.graph.initializer.extend(sorted(self._initializers.values(), key=_shifts_others))
        return model

    @property
    def weights_per_run_bytes(self) -> int:
        """Bytes of the weights that every run reads: all but the tables that are looked up in."""
        lookups = {"Gather", "GatherBlockQuantized"}
        read = {name for n in self._nodes if n.op_type not in lookups for name in n.input}
        return sum(
            _size_bytes(tensor) for name, tensor in self._initializers.items() if name in read
        )

    def _multiply(self, layer: Layer, node: onnx.NodeProto) -> None:
        storage, codes = self._rounded[layer.weight]
        output = node.output[0]
        if codes is None:
            self._multiply_half(node)
        elif isinstance(storage, Blocks):
            self._multiply_blocks(layer, storage, codes, output)
        elif layer.bias:
            self._multiply_rows(layer, codes, f"{output}.product")
            self._node("Add", [f"{output}.product", layer.bias], output)
        else:
            self._multiply_rows(layer, codes, output)

    def _multiply_half(self, node: onnx.NodeProto) -> None:
        """The same product of 16-bit floats, between others of 32."""
        half = onnx.NodeProto()
        half.CopyFrom(node)
        activations, output = node.input[0], node.output[0]
        del half.input[:], half.output[:]
        half.input.extend([f"{activations}.half", *map(self._half_weight, node.input[1:])])
        half.output.append(f"{output}.product")
        if activations not in self._made:
            self._made.add(activations)
            self._node("Cast", [activations], half.input[0], to=onnx.TensorProto.FLOAT16)
        self._nodes.append(half)
        self._node("Cast", [half.output[0]], output, to=onnx.TensorProto.FLOAT)

    def _half_weight(self, name: str) -> str:
        self._external(f"{name}.half", np.asarray(self._network.weights[name], np.float16))
        return f"{name}.half"

    def _multiply_rows(self, layer: Layer, codes: Codes, output: str) -> None:
        activations, scale = self._quantized(layer.input)
        weight, columns = f"{layer.weight}.int8", f"{layer.weight}.scales"
        self._external(weight, codes.codes)
        self._external(columns, codes.scales[0])
        zero = self._constant("activation_zero_point", np.uint8(ZERO_POINT))
        self._node("MatMulInteger", [activations, weight, zero], f"{output}.int32")
        self._node("DequantizeLinear", [f"{output}.int32", scale], f"{output}.by_token", axis=0)
        self._node("Mul", [f"{output}.by_token", columns], output)

    def _quantized(self, name: str) -> tuple[str, str]:
        """The codes and the scales, one a token, of a tensor."""
        codes, scale = f"{name}.uint8", f"{name}.scale"
        if name not in self._made:
            self._made.add(name)
            axes = self._constant("feature_axis", np.array([1]))
            step = self._constant("code_step", np.float32(1 / LARGEST_CODE))
            magnitude = name
            if name not in self._network.rectified:
                magnitude = f"{name}.abs"
                self._node("Abs", [name], magnitude)
            self._node("ReduceMax", [magnitude, axes], f"{name}.peak", keepdims=0)
            self._node("Mul", [f"{name}.peak", step], scale)
            self._node("QuantizeLinear", [name, scale, self._zero_points(name)], codes, axis=0)
        return codes, scale

    def _zero_points(self, name: str) -> str:
        """(tokens,) zero points for a tensor; made once for all of as many tokens."""
        which = "chosen" if name in self._network.chosen else "all"
        zeros = f"zero_points.{which}"
        if zeros not in self._made:
            self._made.add(zeros)
            zero = self._constant("zero_point_vector", np.array([ZERO_POINT], np.uint8))
            self._node("Shape", [name], f"{zeros}.count", start=0, end=1)
            self._node("Expand", [zero, f"{zeros}.count"], zeros)
        return zeros

    def _multiply_blocks(self, layer: Layer, storage: Blocks, codes: Codes, output: str) -> None:
        inputs, outputs = codes.codes.shape
        data, scales = _packed(codes, storage), _scales(codes)
        data_place, _ = self._weights_file.add(data)
        scales_place, _ = self._weights_file.add(scales)
        ends = _part_ends(outputs, data.nbytes)
        parts = [output] if len(ends) == 1 else [f"{output}.to_{end}" for end in ends]
        for part, begin, end in zip(parts, [0, *ends], ends, strict=False):
            which = part.removeprefix(output)
            weight = f"{layer.weight}.int{storage.bits}{which}"
            steps = f"{layer.weight}.scales{which}"
            self._refer(weight, data[begin:end], data_place + data[:begin].nbytes)
            self._refer(steps, scales[begin:end].reshape(-1), scales_place + scales[:begin].nbytes)
            self._node(
                "MatMulNBits",
                [layer.input, weight, steps, *self._bias(layer, which, begin, end)],
                part,
                domain=MICROSOFT,
                K=inputs,
                N=end - begin,
                bits=storage.bits,
                block_size=storage.block_size,
                accuracy_level=INTEGER_COMPUTE,
            )
        if len(parts) > 1:
            self._node("Concat", parts, output, axis=1)

    def _bias(self, layer: Layer, part: str, begin: int, end: int) -> list[str]:
        """MatMulNBits' last inputs: a part of a layer's bias; none where it has no bias."""
        if not layer.bias:
            return []
        name, bias = f"{layer.bias}{part}", self._network.weights[layer.bias]
        place, _ = self._weights_file.add(bias)
        self._refer(name, bias[begin:end], place + bias[:begin].nbytes)
        return ["", "", name]

    def _look_up(self, table: str, ids: str, output: str) -> None:
        storage, codes = self._rounded[table]
        if codes is None:
            self._node("Gather", [self._half_weight(table), ids], f"{output}.half")
            self._node("Cast", [f"{output}.half"], output, to=onnx.TensorProto.FLOAT)
            return
        assert isinstance(storage, Blocks)
        inputs, outputs = codes.codes.shape
        rows, row_scales = f"{table}.rows", f"{table}.row_scales"
        self._external(rows, _packed(codes, storage).reshape(outputs, -1))
        self._external(row_scales, _scales(codes))
        padded = len(codes.scales) * storage.block_size != inputs
        self._node(
            "GatherBlockQuantized",
            [rows, ids, row_scales],
            f"{output}.padded" if padded else output,
            domain=MICROSOFT,
            gather_axis=0,
            quantize_axis=1,
            bits=storage.bits,
            block_size=storage.block_size,
        )
        if padded:
            bounds = [
                self._constant(f"{table}.{name}", np.array([value]))
                for name, value in (("first", 0), ("end", inputs), ("axis", 1))
            ]
            self._node("Slice", [f"{output}.padded", *bounds], output)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def _constant(self, name: str, value: Any) -> str:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _external(self, name: str, array: NDArray[Any]) -> None:
        """A weight of its own."""
        if name not in self._initializers:
            offset, _ = self._weights_file.add(array)
            self._refer(name, array, offset)

    def _refer(self, name: str, array: NDArray[Any], offset: int) -> None:
        """A weight that lies at ``offset`` of the file."""
        tensor = onnx.TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        place = {
            "location": self._weights_file.path.name,
            "offset": offset,
            "length": array.nbytes,
        }
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._initializers[name] = tensor

    def _keep_used_weights(self) -> None:
        used = _read_by(self._nodes)
        self._initializers |= {t.name: t for t in self._network.constants if t.name in used}
        for name, array in self._network.weights.items():
            if name in used:
                self._external(name, array)


def _size_bytes(tensor: onnx.TensorProto) -> int:
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * itemsize)


def _shifts_others(tensor: onnx.TensorProto) -> bool:
    return _size_bytes(tensor) % SMALL_TENSOR_ALIGNMENT_BYTES != 0


def _read_by(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The names that nodes and the bodies of loops read."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            names |= _read_by(attribute.g.node)
    return names


def _part_ends(outputs: int, size_bytes: int) -> list[int]:
    """Where the parts end that a layer's outputs are computed in.

    While ONNX Runtime packs a weight it holds it twice. An lm_head is by far the largest, and it is
    packed last: in one piece it would set the peak of the whole program's memory.
    """
    count = -(-size_bytes // LARGEST_PART_BYTES)
    size = -(-outputs // count)
    size += -size % PART_MULTIPLE
    return [*range(size, outputs, size), outputs]


def _packed(codes: Codes, storage: Blocks) -> NDArray[np.uint8]:
    """(outputs, blocks, bytes of a block): as MatMulNBits reads them, the last block filled up."""
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
    """(outputs, blocks)."""
    return np.ascontiguousarray(codes.scales.T)
