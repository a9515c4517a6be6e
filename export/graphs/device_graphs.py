"""Write the copy graphs and the top-logits graph, which ``runtime/ort/graphs`` contains.

    python -m edgeseq.export.graphs.device_graphs FOLDER

A copy graph copies parts of a KV cache in a device's memory; there is one for each dtype. The
top-logits graph finds the highest logits of each row.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from .tracing import OPSET

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
}
RANK = ("layers", "rows", "heads", "capacity")  # dimensions of a cache block, before the head size


def copy_graph(dtype: str) -> onnx.ModelProto:
    """Return the graph that copies entries ``from`` of ``source`` to entries ``to`` of ``target``.

    Both are indices, (n, 4): layer, row, head, position. The output ``copied`` is ``target`` with
    the entries ``to`` replaced.
    """
    kind = TYPES[dtype]
    blocks = [
        helper.make_tensor_value_info(name, kind, [*(f"{name}_{size}" for size in RANK), "size"])
        for name in ("source", "target")
    ]
    places = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", len(RANK)])
        for name in ("from", "to")
    ]
    copied = helper.make_tensor_value_info(
        "copied", kind, [*(f"target_{size}" for size in RANK), "size"]
    )
    nodes = [
        helper.make_node("GatherND", ["source", "from"], ["moved"]),
        helper.make_node("ScatterND", ["target", "to", "moved"], ["copied"]),
    ]
    return _model(helper.make_graph(nodes, "copy", [*blocks, *places], [copied]))


def top_graph() -> onnx.ModelProto:
    """Return the graph that finds the ``count`` highest logits of each row and their token ids."""
    inputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "vocabulary"]),
        helper.make_tensor_value_info("count", TensorProto.INT64, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", "best"]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", "best"]),
    ]
    node = helper.make_node("TopK", ["logits", "count"], ["values", "ids"], axis=1)
    return _model(helper.make_graph([node], "top", inputs, outputs))


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="edgeseq")


def write_graphs(folder: Path) -> None:
    """Write all graphs into ``folder``."""
    for dtype in TYPES:
        onnx.save(copy_graph(dtype), folder / f"copy_{dtype}.onnx")
    onnx.save(top_graph(), folder / "top_logits.onnx")


if __name__ == "__main__":
    write_graphs(Path(sys.argv[1]))
