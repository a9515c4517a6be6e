"""ONNX Runtime's basic optimizations of an exported graph, and nothing else of what it writes.

They fold constants, make equal nodes one, and join a bias with its product. But every attribute
that a node leaves out is written with its default, and every domain that is known is named with
its newest version: an older ONNX Runtime, which knows neither, would refuse a graph that it can
run.
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
    """Replace the file ``graph``; its weights stay where they are."""
    traced = onnx.load(graph, load_external_data=False)
    part = graph.with_suffix(".part")
    save_optimized(graph, part)
    model = onnx.load(part, load_external_data=False)
    part.unlink()
    _drop_defaults(model.graph, traced)
    model.graph.initializer.sort(key=shifts_others)
    used = {node.domain for node in all_nodes(model.graph)}
    domains = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    onnx.save(model, graph)


def _drop_defaults(proto: onnx.GraphProto, traced: onnx.ModelProto) -> None:
    """Leave out the attributes that say what holds without them.

    ONNX knows the defaults of its own operators; of others those go that their nodes did not have.
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


def _is_default(attribute: onnx.AttributeProto, schema: onnx.defs.OpSchema) -> bool:
    known = schema.attributes.get(attribute.name)
    if known is None or not known.default_value.name:
        return False
    values = map(onnx.helper.get_attribute_value, (attribute, known.default_value))
    one, other = values
    return bool(one == other)


def _identity(node: onnx.NodeProto) -> tuple[str, ...]:
    return node.domain, node.op_type, *node.output
