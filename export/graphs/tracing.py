"""Trace a torch module to an ONNX file whose weights lie in the bundle's weights file.

Exported modules have no parameters: their weights are inputs. So tracing copies no weights, however
large the model is, and the ONNX file is small. Afterwards the weight inputs become initializers
that point into the weights file, under the names that the family gave them. A tensor that two
graphs use is stored once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import torch
from optimum.exporters.onnx import OnnxConfig
from optimum.exporters.onnx import export as optimum_export
from optimum.utils import NormalizedConfig
from torch.jit._trace import TracerWarning
from transformers import PretrainedConfig

from ...runtime.bundle.graph_contract import Shapes
from ...runtime.bundle.initializers import external_tensor
from ...runtime.bundle.manifest import Dimensions
from ...runtime.bundle.weights_file import WeightsFile

OPSET = 18
WEIGHT_PREFIX = "weights."
Axes = dict[str, dict[int, str]]  # names of dynamic dimensions, by tensor and axis


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph to export.

    ``module.forward`` takes the inputs by name; a name ``"a.b"`` is an item of the list ``a``.
    Its parameter ``weights`` receives the tensors of ``weights`` in order.
    """

    role: str  # the graph's name in the manifest, such as "decoder"
    file_name: str
    module: torch.nn.Module
    config: PretrainedConfig
    inputs: Shapes
    outputs: Shapes
    example: Mapping[str, Any]  # arguments of ``forward`` without the weights
    weights: Mapping[str, torch.Tensor]
    functions: Sequence[str] = ()  # ONNX functions in text form, domain "edgeseq"


def decoder_example(sizes: Dimensions) -> dict[str, object]:
    """Return arguments for tracing a decoder: two rows of three tokens, an empty KV cache."""
    rows, n, capacity = 2, 3, 4
    cache = (rows, sizes.heads, capacity, sizes.stored_head_size)
    return {
        "input_ids": torch.zeros(rows, n, dtype=torch.int64),
        "position_ids": torch.zeros(rows, n, dtype=torch.int64),
        "seqlens_k": torch.full((rows,), n - 1, dtype=torch.int32),
        "total_sequence_length": torch.tensor(n, dtype=torch.int32),
        "logits_at": torch.tensor([n - 1, 2 * n - 1]),
        "past_key_values": [torch.zeros(cache) for _ in range(2 * sizes.layers)],
    }


class _TracedGraph(OnnxConfig):
    """The description of a graph for Optimum."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.config, task="text-generation")
        self._graph = graph

    @property
    def inputs(self) -> Axes:
        weights: Axes = {WEIGHT_PREFIX + name: {} for name in self._graph.weights}
        return {**_axes(self._graph.inputs), **weights}

    @property
    def outputs(self) -> Axes:
        return _axes(self._graph.outputs)

    def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> dict[str, Any]:
        return {**self._graph.example, "weights": list(self._graph.weights.values())}


def _axes(shapes: Shapes) -> Axes:
    return {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in shapes.items()
    }


def write_graph(graph: Graph, folder: Path, weights_file: WeightsFile) -> dict[str, int]:
    """Trace ``graph`` into ``folder`` and append its weights to ``weights_file``.

    Returns the offset in bytes of each weight in the weights file, by name.
    """
    path = folder / graph.file_name
    with warnings.catch_warnings():
        # torch deprecates this exporter. It also warns of Python loops in a `forward`, which do no
        # harm: only the node from `symbolic` reaches the graph.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        warnings.filterwarnings("ignore", message=".*onnx.*", category=UserWarning)
        optimum_export(
            graph.module, _TracedGraph(graph), path, opset=OPSET, disable_dynamic_axes_fix=True
        )
    model = onnx.load(path)
    offsets = _inputs_to_initializers(model.graph, graph.weights, weights_file)
    _drop_unused_outputs(model.graph)
    _declare_outputs(model.graph, graph.outputs)
    model.functions.extend(map(onnx.parser.parse_function, graph.functions))
    onnx.save(model, path)
    return offsets


def _inputs_to_initializers(
    proto: onnx.GraphProto, weights: Mapping[str, torch.Tensor], weights_file: WeightsFile
) -> dict[str, int]:
    offsets = {}
    used = {name for node in proto.node for name in node.input}
    for value in [v for v in proto.input if v.name.startswith(WEIGHT_PREFIX)]:
        proto.input.remove(value)
        name = value.name.removeprefix(WEIGHT_PREFIX)
        if value.name not in used:
            raise ValueError(f"The graph does not use the weight {name!r}.")
        array = weights[name].detach().contiguous().numpy()
        offsets[name] = weights_file.add(array)
        proto.initializer.append(external_tensor(name, array, offsets[name]))
    for node in proto.node:
        for i, name in enumerate(node.input):
            node.input[i] = name.removeprefix(WEIGHT_PREFIX)
    return offsets


def _drop_unused_outputs(proto: onnx.GraphProto) -> None:
    """Remove optional outputs that nothing reads, so that they are not computed."""
    read = {name for node in proto.node for name in node.input}
    read |= {output.name for output in proto.output}
    for node in proto.node:
        for i, name in enumerate(node.output):
            if name not in read:
                node.output[i] = ""


def _declare_outputs(proto: onnx.GraphProto, shapes: Shapes) -> None:
    """Set the outputs' shapes, which torch loses after an operator that it does not know."""
    for output in proto.output:
        dtype = output.type.tensor_type.elem_type
        shape = list(shapes[output.name])
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, dtype, shape))
    del proto.value_info[:]  # shapes of intermediate tensors, which are incomplete
