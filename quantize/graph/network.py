"""A bundle's graph as the quantizer reads it: the weights, and the nodes that use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
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
RMS_NORMS = {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}
ACTIVATIONS = {"Relu", "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Tanh", "Erf", "Sigmoid"}
ELEMENTWISE = {"Add", "Mul", "Div", "Identity", "Reshape"}  # around and inside them


@dataclass(frozen=True)
class Layer:
    """A node that multiplies a tensor with a weight."""

    weight: str  # name of the weight
    input: str  # name of the tensor, (tokens, inputs)
    is_table: bool = False  # whether the weight is (outputs, inputs): an lm_head
    bias: str = ""  # name of the vector that the node adds; "": none


class Weights(MutableMapping[str, Array]):
    """The weights of a graph by name. They are memory-mapped, so they take no memory of their own.

    A weight that was scaled is multiplied when it is read, so it takes memory only while in use.
    """

    def __init__(self, arrays: Mapping[str, Array] | None = None) -> None:
        self._arrays = dict(arrays or {})
        self._factors: dict[str, list[Array]] = {}

    def __getitem__(self, name: str) -> Array:
        array = self._arrays[name]
        for factors in self._factors.get(name, ()):
            array = array * factors
        return array

    def __setitem__(self, name: str, array: Array) -> None:
        self._arrays[name] = array
        self._factors.pop(name, None)

    def __delitem__(self, name: str) -> None:
        del self._arrays[name]
        self._factors.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight without reading it."""
        return self._arrays[name].shape

    def scale_rows(self, name: str, factors: Array) -> None:
        """Multiply each input of a weight, (inputs, outputs), by its factor."""
        self._factors.setdefault(name, []).append(factors[:, None])

    def scale_columns(self, name: str, factors: Array) -> None:
        """Multiply each output of a weight, (inputs, outputs), or of a bias by its factor."""
        self._factors.setdefault(name, []).append(factors)


class Network:
    """A graph and its weights."""

    def __init__(self, bundle: Bundle, role: str) -> None:
        path = bundle.file(bundle.manifest.graphs[role])
        try:
            self.model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's errors, which onnx does not document
            raise BundleError(f"{path} is not an ONNX file: export the bundle again.") from error
        self.role = role
        self.weights = Weights()
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

    def multiply_for_layers(self, name: str, factors_name: str, factors: Array) -> str:
        """Multiply the tensor ``name`` by ``factors`` for the layers that read it alone.

        Returns the name of the product. Node indices change, so read ``layers`` again.
        """
        product = f"{factors_name}.output"
        readers = [i for i, layer in self.layers.items() if layer.input == name]
        self.weights[factors_name] = factors.astype(np.float32)
        for i in readers:
            self.graph.node[i].input[0] = product
        node = onnx.helper.make_node("Mul", [name, factors_name], [product])
        self.graph.node.insert(min(readers), node)
        for cached in ("layers", "tables", "large"):
            self.__dict__.pop(cached, None)
        return product

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
        return name in self.weights and len(self.weights.shape(name)) == 2

    @cached_property
    def large(self) -> frozenset[str]:
        """The names of weights of layers whose outputs may exceed the range of 16-bit floats.

        In models with root mean square norms, the layer after the activation function of a
        feed-forward network makes the largest values, and no norm subtracts their mean.
        """
        makers = {name: node for node in self.graph.node for name in node.output if name}
        if not any(node.op_type in RMS_NORMS for node in self.graph.node):
            return frozenset()
        return frozenset(
            layer.weight
            for layer in self.layers.values()
            if not layer.is_table and _is_activated(layer.input, makers)
        )


def _is_activated(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Return whether an activation function makes a tensor, perhaps times a gate."""
    node = makers.get(name)
    if node is None:
        return False
    if node.op_type in ACTIVATIONS:
        return True
    return node.op_type in ELEMENTWISE and any(_is_activated(n, makers) for n in node.input)


def _attribute(node: onnx.NodeProto, name: str) -> int:
    """Return an integer attribute of a node, 0 if it is missing."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _map(bundle: Bundle, tensor: onnx.TensorProto) -> Array:
    """Return an initializer's values, memory-mapped from the weights file."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    path, offset = bundle.file(place["location"]), int(place["offset"])
    return np.memmap(path, dtype, "r", offset, tuple(tensor.dims))
