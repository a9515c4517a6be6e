"""Parts of a graph: together they compute what the whole graph computes, each node once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeseq.quantize.graph.parts import part_model, parts

NODES = [
    ("Add", ["x", "one"], "a"),
    ("Mul", ["a", "a"], "b"),
    ("Neg", ["a"], "c"),
    ("Add", ["b", "c"], "d"),
    ("Mul", ["d", "x"], "e"),
    ("Sub", ["e", "a"], "f"),
]


def model() -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, inputs, [output]) for kind, inputs, output in NODES],
        "graph",
        [value("x", onnx.TensorProto.FLOAT, ["n"])],
        [value("f", onnx.TensorProto.FLOAT, ["n"])],
        [onnx.numpy_helper.from_array(np.float32([1]), "one")],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )


def run(data: bytes, values: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {value.name: values[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize(
    "wanted",
    [[["a", "b", "c", "d", "e", "f"]], [["a"], ["d"], ["f"]], [["b"], ["c", "a"], ["e"]]],
)
def test_parts_compute_what_the_graph_computes(wanted: list[list[str]]) -> None:
    whole = model()
    names = [name for group in wanted for name in group]
    everything = onnx.ModelProto()
    everything.CopyFrom(whole)
    del everything.graph.output[:]
    everything.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    x = np.float32([1, -2, 0.5])
    expected = run(everything.SerializeToString(), {"x": x})
    plan = parts(whole.graph, wanted)
    nodes = [i for part in plan for i in part.nodes]
    assert len(nodes) == len({*nodes})
    given: dict[str, Any] = {"x": x}
    for part, group in zip(plan, wanted, strict=True):
        values = dict(given)
        if part.nodes:
            values |= run(part_model(whole, part, given), given)
        for name in group:
            assert np.array_equal(values[name], expected[name])
        given = {"x": x, **{name: values[name] for name in part.carried}}
    assert given.keys() == {"x"}  # nothing is carried beyond the last part
