"""A bundle's graphs as the quantizer sees them: the weights, and which nodes multiply with them."""

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
PRODUCTS = {"MatMul", "Gemm"}  # with alpha and beta of 1


@dataclass(frozen=True)
class Layer:
    """A node that multiplies with a weight of its own."""

    weight: str  # its name
    input: str  # tensor that is multiplied with it: (tokens, inputs)
    is_table: bool = False  # stored as (outputs, inputs): an lm_head
    bias: str = ""  # name of the vector that the node adds


class Network:
    """A graph and its weights, which are mapped and not read."""

    def __init__(self, bundle: Bundle, role: str) -> None:
        path = bundle.file(bundle.manifest.graphs[role])
        try:
            self.model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own, which onnx does not name
            raise BundleError(f"{path} is not an ONNX file: export the bundle again.") from error
        self.role = role
        self.weights: dict[str, Array] = {}
        self.constants: list[onnx.TensorProto] = []  # small ones, inside the graph's file
        for tensor in self.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                self.weights[tensor.name] = _map(bundle, tensor)
            else:
                self.constants.append(tensor)

    @property
    def graph(self) -> onnx.GraphProto:
        """The graph itself."""
        return self.model.graph

    @cached_property
    def layers(self) -> Mapping[int, Layer]:
        """By the index of its node, every product with a two-dimensional weight."""
        return dict(self._layers())

    @cached_property
    def tables(self) -> Mapping[int, str]:
        """By the index of its node, the weight whose rows each lookup of ids reads."""
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
                        f"The {self.role}'s graph adds {bias!r} to a product, which is no weight: "
                        "export the bundle again."
                    )
                yield i, Layer(node.input[1], node.input[0], is_table=is_table, bias=bias)

    def _is_matrix(self, name: str) -> bool:
        return name in self.weights and self.weights[name].ndim == 2

    @cached_property
    def rectified(self) -> frozenset[str]:
        """The tensors without negative values."""
        return frozenset(node.output[0] for node in self.graph.node if node.op_type == "Relu")

    @cached_property
    def chosen(self) -> frozenset[str]:
        """The tensors that hold only the positions of ``logits_at``."""
        found = {"logits_at"}
        for node in self.graph.node:
            picks = node.op_type == "Gather" and node.input[1] == "logits_at"
            if picks or found & {*node.input} - {"logits_at"}:
                found.update(node.output)
        return frozenset(found - {"logits_at"})


def _attribute(node: onnx.NodeProto, name: str) -> int:
    """An integer attribute, 0 where it is left out."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _map(bundle: Bundle, tensor: onnx.TensorProto) -> Array:
    """The values of an initializer, mapped where they lie in the weights file."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    path, offset = bundle.file(place["location"]), int(place["offset"])
    return np.memmap(path, dtype, "r", offset, tuple(tensor.dims))
