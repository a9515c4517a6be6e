"""Apply ONNX Runtime's basic optimizations to an exported graph, and undo its other changes.

The optimizations fold constants, merge equal nodes, and fuse a bias with its product. But ONNX
Runtime also writes the default of every attribute that a node leaves out, and lists every domain
that it knows in its newest version. An older ONNX Runtime knows neither, and would refuse a graph
that it can run.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.defs

from ...runtime.bundle.initializers import all_nodes, shifts_others
from ...runtime.ort.graph_session import save_optimized
from .tracing import OPSET

ONNX_DOMAINS = {"", "ai.onnx"}


def optimize(graph: Path) -> None:
    """Replace the file ``graph`` by the optimized graph; its weights stay where they are."""
    traced = onnx.load(graph, load_external_data=False)
    part = graph.with_suffix(".part")
    save_optimized(graph, part)
    model = onnx.load(part, load_external_data=False)
    part.unlink()
    _drop_defaults(model.graph, traced)
    _split_residuals(model.graph)
    model.graph.initializer.sort(key=shifts_others)
    used = {node.domain for node in all_nodes(model.graph)}
    domains = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    onnx.save(model, graph)


def _drop_defaults(proto: onnx.GraphProto, traced: onnx.ModelProto) -> None:
    """Remove attributes that only repeat a default.

    ONNX knows the defaults of its own operators. Nodes of other operators lose the attributes that
    they did not have in ``traced``.
    """
    named = {_identity(node): {a.name for a in node.attribute} for node in all_nodes(traced.graph)}
    for node in all_nodes(proto):
        if node.domain in ONNX_DOMAINS and onnx.defs.has(node.op_type):
            schema = onnx.defs.get_schema(node.op_type, OPSET)
            dropped = [a for a in node.attribute if _is_default(a, schema)]
        else:
            names = named.get(_identity(node))
            dropped = [a for a in node.attribute if names is not None and a.name not in names]
        for attribute in dropped:
            node.attribute.remove(attribute)


def _split_residuals(proto: onnx.GraphProto) -> None:
    """Take residuals out of products again: the quantizer reads a product with its own bias only.

    The fusion of a bias with its product takes any other addend too.
    """
    weights = {tensor.name for tensor in proto.initializer}
    nodes = []
    for node in proto.node:
        if node.op_type == "Gemm" and len(node.input) == 3 and node.input[2] not in weights:
            product = f"{node.output[0]}_product"
            nodes.append(onnx.helper.make_node("MatMul", node.input[:2], [product], node.name))
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], node.output[:], ""))
        else:
            nodes.append(node)
    del proto.node[:]
    proto.node.extend(nodes)


def _is_default(attribute: onnx.AttributeProto, schema: onnx.defs.OpSchema) -> bool:
    known = schema.attributes.get(attribute.name)
    if known is None or not known.default_value.name:
        return False
    values = map(onnx.helper.get_attribute_value, (attribute, known.default_value))
    one, other = values
    return bool(one == other)


def _identity(node: onnx.NodeProto) -> tuple[str, ...]:
    return node.domain, node.op_type, *node.output
