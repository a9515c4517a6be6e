"""ONNX Runtime's basic optimizations of an exported graph, and nothing else of what it writes.

They fold constants, make equal nodes one, and join a bias with its product. But every attribute
that a node leaves out is written with its default, and every domain that is known is named with
its newest version: an older ONNX Runtime, which knows neither, would refuse a graph that it can
run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx

from edgeseq.runtime.onnx_runtime import save_optimized
from edgeseq.runtime.weights_file import SMALL_TENSOR_ALIGNMENT_BYTES


def optimize(graph: Path) -> None:
    """Replace the file ``graph``; its weights stay where they are."""
    traced = onnx.load(graph, load_external_data=False)
    part = graph.with_suffix(".part")
    save_optimized(graph, part)
    model = onnx.load(part, load_external_data=False)
    part.unlink()
    _keep_named_attributes(model.graph, traced)
    # In this order ONNX Runtime writes packed weights, and kernels take their alignment for
    # granted (runtime/prepacked.py): what would shift the others comes last.
    model.graph.initializer.sort(key=_shifts_others)
    used = {node.domain for node in _nodes(model.graph)}
    domains = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    onnx.save(model, graph)


def _keep_named_attributes(proto: onnx.GraphProto, traced: onnx.ModelProto) -> None:
    """Drop the attributes that a node did not have before, unless it is new."""
    named = {_identity(node): {a.name for a in node.attribute} for node in _nodes(traced.graph)}
    for node in proto.node:
        names = named.get(_identity(node))
        for attribute in list(node.attribute):
            if names is not None and attribute.name not in names:
                node.attribute.remove(attribute)


def _identity(node: onnx.NodeProto) -> tuple[str, ...]:
    return node.domain, node.op_type, *node.output


def _shifts_others(tensor: onnx.TensorProto) -> bool:
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return bool(math.prod(tensor.dims) * itemsize % SMALL_TENSOR_ALIGNMENT_BYTES)


def _nodes(proto: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those in the bodies of loops too."""
    for node in proto.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)
