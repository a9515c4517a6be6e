"""Write a graph: nodes, constants, and weights that lie in the bundle's weights file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...runtime.bundle.initializers import external_tensor, shifts_others, weights_per_run_bytes
from ...runtime.bundle.weights_file import WeightsFile
from .functions import DOMAIN, FUNCTIONS, MICROSOFT
from .network import Network


def add_function(model: onnx.ModelProto, name: str) -> None:
    """Add one of ``FUNCTIONS`` to ``model``, and the domains that it needs."""
    model.functions.append(onnx.parser.parse_function(FUNCTIONS[name]))
    for domain in sorted({DOMAIN, MICROSOFT} - {entry.domain for entry in model.opset_import}):
        model.opset_import.append(helper.make_opsetid(domain, 1))


class PooledWeights(WeightsFile):
    """A weights file for several drafts, one after the other.

    What is made of the same codes is made and written once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path
        self._made: dict[tuple[int, str], tuple[object, NDArray[Any], int]] = {}

    def add_once(
        self, owner: object, kind: str, make: Callable[[], NDArray[Any]]
    ) -> tuple[NDArray[Any], int]:
        """Return the array that ``make`` made of ``owner``, and its offset."""
        key = (id(owner), kind)  # the owner is kept, so that no other gets its id
        if key not in self._made:
            array = make()
            offset = self.add(array)
            self.flush()
            array = np.memmap(self._path, array.dtype, "r", offset, array.shape)
            self._made[key] = owner, array, offset
        _, array, offset = self._made[key]
        return array, offset


class GraphWriter:
    """A copy of a network's graph with other nodes; its weights go to ``weights_file``."""

    FLOAT = onnx.TensorProto.FLOAT
    FLOAT16 = onnx.TensorProto.FLOAT16

    def __init__(self, network: Network, weights_file: WeightsFile) -> None:
        self.network = network
        self._weights_file = weights_file
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._functions: set[str] = set()  # names of the functions that nodes call
        self._seen: set[str] = set()  # names passed to `is_first`

    def model(self) -> onnx.ModelProto:
        """Return the graph with its new nodes; the network's own graph is unchanged."""
        self._keep_used_weights()
        model = onnx.ModelProto()
        model.CopyFrom(self.network.model)
        for name in sorted(self._functions):
            add_function(model, name)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(sorted(self._initializers.values(), key=shifts_others))
        return model

    @property
    def weights_per_run_bytes(self) -> int:
        """The size in bytes of the weights that every run reads: all but lookup tables."""
        return weights_per_run_bytes(self._nodes, self._initializers.values())

    def is_first(self, name: str) -> bool:
        """Return whether a shared tensor is requested for the first time, and must be made."""
        first = name not in self._seen
        self._seen.add(name)
        return first

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Append a node."""
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def call(self, function: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Append a node that calls one of ``functions.py``."""
        self._functions.add(function)
        self.node(function, inputs, output, domain=DOMAIN, **attributes)

    def keep(self, node: onnx.NodeProto) -> None:
        """Append a node unchanged."""
        self._nodes.append(node)

    def copy_node(self, node: onnx.NodeProto, inputs: list[str], output: str) -> None:
        """Append a copy of ``node`` with other inputs and another output."""
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        del changed.input[:], changed.output[:]
        changed.input.extend(inputs)
        changed.output.append(output)
        self._nodes.append(changed)

    def constant(self, name: str, value: Any) -> str:
        """Add a small constant, once; return its name."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def external(self, name: str, array: NDArray[Any]) -> None:
        """Add an array as a weight, once, and write it to the weights file."""
        if name not in self._initializers:
            self.refer(name, array, self.store(array))

    def store(self, array: NDArray[Any]) -> int:
        """Write an array to the weights file; return its offset."""
        return self._weights_file.add(array)

    def store_once(
        self, owner: object, kind: str, make: Callable[[], NDArray[Any]]
    ) -> tuple[NDArray[Any], int]:
        """Write the array that ``make`` makes of ``owner``, once for all drafts of a weights file.

        Returns the array and its offset.
        """
        if isinstance(self._weights_file, PooledWeights):
            return self._weights_file.add_once(owner, kind, make)
        array = make()
        return array, self.store(array)

    def refer(self, name: str, array: NDArray[Any], offset: int) -> None:
        """Add a weight that lies at ``offset`` of the weights file."""
        self._initializers[name] = external_tensor(name, array, offset)

    def _keep_used_weights(self) -> None:
        used = _read_by(self._nodes)
        self._initializers |= {t.name: t for t in self.network.constants if t.name in used}
        for name in self.network.weights:
            if name in used:
                self.external(name, self.network.weights[name])


def _read_by(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the names that nodes and the bodies of loops read."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            names |= _read_by(attribute.g.node)
    return names
