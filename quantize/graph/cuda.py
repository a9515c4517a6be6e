"""Changes that a graph needs for CUDA, but not for the CPU."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ...runtime.ort.providers import OF_POSITIONS
from .functions import BLOCK_LOOKUP

INTEGERS = {TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
ZERO_POINTS = 3  # index of the input of a lookup
ZEROS = {4: 0x88, 8: 0x80}  # byte whose codes all mean zero, by bits


def for_cuda(model: onnx.ModelProto) -> None:
    """Change ``model`` in place, so that CUDA computes the same as the CPU.

    - Lookups get zero points. Without them, ONNX Runtime's CUDA kernel up to 1.28 takes the zero
      point to be 0 and not the middle of the codes.
    - Nodes that compute shapes and positions get names with a prefix. These numbers lie in the
      CPU's memory, so CUDA may leave such nodes to the CPU.
    """
    _add_zero_points(model.graph)
    _Positions(model).name(model.graph)


def _add_zero_points(graph: onnx.GraphProto) -> None:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != BLOCK_LOOKUP or len(node.input) > ZERO_POINTS:
            continue
        scales = node.input[2]
        name = f"{scales}.zero_points"
        if name not in shapes:
            bits = {found.name: found.i for found in node.attribute}["bits"]
            rows, blocks = shapes[scales]
            zeros = np.full((rows, -(-blocks * bits // 8)), ZEROS[bits], np.uint8)
            graph.initializer.append(numpy_helper.from_array(zeros, name))
            shapes[name] = zeros.shape
        node.input.append(name)


class _Positions:
    """A finder of nodes that compute only shapes and positions, not activations."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        numbers = [*inferred.value_info, *inferred.input, *inferred.output]
        self._types = {value.name: value.type.tensor_type.elem_type for value in numbers}
        self._numbers = {
            *(v.name for v in model.graph.input if v.type.tensor_type.elem_type not in INTEGERS),
            *(t.name for t in model.graph.initializer if _is_weight(t)),
        }

    def name(self, graph: onnx.GraphProto, prefix: str = "") -> bool:
        """Name these nodes of ``graph``; return whether it has other nodes."""
        others = False
        for number, node in enumerate(graph.node):
            bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            within = [self.name(body, f"{prefix}{number}.") for body in bodies]
            computes = any(within) or not self._numbers.isdisjoint(node.input)
            if computes and not all(self._types.get(name) in INTEGERS for name in node.output):
                self._numbers.update(node.output)
                others = True
            else:
                node.name = f"{OF_POSITIONS}{prefix}{number}"
        return others


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type not in INTEGERS and math.prod(tensor.dims) > 1
