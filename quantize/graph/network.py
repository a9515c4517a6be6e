"""A bundle's graph as the quantizer reads it: the weights, and the nodes that use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...runtime.bundle.reading import Bundle
from ...runtime.errors import BundleError

Array = NDArray[Any]
PRODUCTS = {"MatMul", "Gemm"}  # Gemm with alpha and beta of 1


@dataclass(frozen=True)
class Layer:
    """A node that multiplies a tensor with a weight."""

    weight: str  # name of the weight
    input: str  # name of the tensor, (tokens, inputs)
    is_table: bool = False  # whether the weight is (outputs, inputs): an lm_head
    bias: str = ""  # name of the vector that the node adds; "": none


class Network:
    """A graph and its weights, which are memory-mapped."""

    def __init__(self, bundle: Bundle, role: str) -> None:
        path = bundle.file(bundle.manifest.graphs[role])
        try:
            self.model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's errors, which onnx does not document
            raise BundleError(f"{path} is not an ONNX file: export the bundle again.") from error
        self.role = role
        self.weights: dict[str, Array] = {}
        self.constants: list[onnx.TensorProto] = []  # small weights that the graph's file holds
        for tensor in self.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                self.weights[tensor.name] = _map(bundle, tensor)
            else:
                self.constants.append(tensor)

    @property
    def graph(self) -> onnx.GraphProto:
        """The graph of the ONNX model."""
        return self.model.graph

    @cached_property
    def layers(self) -> Mapping[int, Layer]:
        """The products with a two-dimensional weight, by node index."""
        return dict(self._layers())

    @cached_property
    def tables(self) -> Mapping[int, str]:
        """The tables, by the index of the node that looks up their rows."""
        return {
            i: node.input[0]
            for i, node in enumerate(self.graph.node)
            if node.op_type == "Gather"
            and self._is_matrix(node.input[0])
            and not _attribute(node, "axis")
        }

    def _layers(self) -> Iterator[tuple[int, Layer]]:
        for i, node in enumerate(self.graph.node):
            if node.op_type in PRODUCTS and self._is_matrix(node.input[1]):
                is_table, bias = bool(_attribute(node, "transB")), "".join(node.input[2:3])
                if bias and bias not in self.weights:
                    raise BundleError(
                        f"In the {self.role} graph, the bias {bias!r} is not a weight: "
                        "export the bundle again."
                    )
                yield i, Layer(node.input[1], node.input[0], is_table=is_table, bias=bias)

    def _is_matrix(self, name: str) -> bool:
        return name in self.weights and self.weights[name].ndim == 2

    @cached_property
    def rectified(self) -> frozenset[str]:
        """The names of tensors without negative values: outputs of Relu."""
        return frozenset(node.output[0] for node in self.graph.node if node.op_type == "Relu")

    @cached_property
    def chosen(self) -> frozenset[str]:
        """The names of tensors that hold only the positions ``logits_at``."""
        found = {"logits_at"}
        for node in self.graph.node:
            picks = node.op_type == "Gather" and node.input[1] == "logits_at"
            if picks or found & {*node.input} - {"logits_at"}:
                found.update(node.output)
        return frozenset(found - {"logits_at"})


def _attribute(node: onnx.NodeProto, name: str) -> int:
    """Return an integer attribute of a node, 0 if it is missing."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _map(bundle: Bundle, tensor: onnx.TensorProto) -> Array:
    """Return an initializer's values, memory-mapped from the weights file."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    path, offset = bundle.file(place["location"]), int(place["offset"])
    return np.memmap(path, dtype, "r", offset, tuple(tensor.dims))
