"""What an ONNX graph holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import onnx


def nodes_of(graph: onnx.GraphProto, op_type: str) -> list[onnx.NodeProto]:
    """Return the nodes of one operator."""
    return [node for node in graph.node if node.op_type == op_type]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def dtypes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, int]:
    """Return the element types of inputs or outputs by name."""
    return {value.name: value.type.tensor_type.elem_type for value in values}


def shape(value: onnx.ValueInfoProto) -> list[str | int]:
    """Return each dimension's size where it is fixed, else its name."""
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    ]


def names_after(
    graph: onnx.GraphProto, names: Iterable[str], but: Collection[str] = ()
) -> set[str]:
    """Return all values that depend on ``names`` through nodes of other operators than ``but``.

    Nodes are in topological order.
    """
    reached = set(names)
    for node in graph.node:
        if node.op_type not in but and reached & set(node.input):
            reached |= {output for output in node.output if output}
    return reached
