"""Graphs use no domain or attribute that older versions of ONNX Runtime need not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeseq.export.graphs.optimizing import optimize
from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle.reading import Bundle, open_bundle

ATTENTION = {"num_heads", "kv_num_heads", "scale"}
INT8_CACHE = {"k_quant_type", "v_quant_type", "kv_cache_bit_width"}


@pytest.fixture(params=["exported gpt2", "exported t5", "demo gpt2", "demo t5"])
def made(request: pytest.FixtureRequest, bundle: Path, t5_model: Model) -> Bundle:
    exported = {"gpt2": open_bundle(bundle), "t5": t5_model.bundle}
    which, name = request.param.split()
    return exported[name] if which == "exported" else load(demo=name).bundle


def graphs(made: Bundle) -> Iterator[tuple[str, onnx.ModelProto]]:
    for role, name in made.manifest.graphs.items():
        yield role, onnx.load(made.file(name), load_external_data=False)


def test_only_domains_that_are_used(made: Bundle) -> None:
    for _, graph in graphs(made):
        found = {entry.domain: entry.version for entry in graph.opset_import}
        functions = {"edgeseq": 1} if graph.functions else {}
        assert found == {"": 18, "com.microsoft": 1, **functions}


def test_only_attributes_that_were_asked_for(made: Bundle) -> None:
    for role, graph in graphs(made):
        for node in graph.graph.node:
            if node.op_type == "GroupQueryAttention":
                names = {attribute.name for attribute in node.attribute}
                assert names == ATTENTION | (INT8_CACHE if "int8" in role else set())


def test_every_weight_is_read(made: Bundle) -> None:
    for _, graph in graphs(made):
        bodies = [a.g for node in graph.graph.node for a in node.attribute if a.g.node]
        read = {
            name for g in (graph.graph, *bodies) for node in g.node for name in node.input if name
        }
        assert {tensor.name for tensor in graph.graph.initializer} <= read


def test_the_version_of_onnx_runtime_is_recorded(bundle: Path) -> None:
    assert "onnxruntime" in open_bundle(bundle).manifest.producers


def test_equal_nodes_become_one_and_constants_are_folded(tmp_path: Path) -> None:
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2])
    odd = onnx.numpy_helper.from_array(np.ones((3, 5), np.float32), "odd")
    nodes = [
        helper.make_node("Mul", ["two", "two"], ["four"]),
        helper.make_node("Mul", ["x", "four"], ["a"]),
        helper.make_node("Mul", ["x", "four"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Softmax", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "odd"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size])
        for name, size in (("x", 3), ("y", 5))
    )
    graph = helper.make_graph(nodes, "graph", [x], [y], [odd, two])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "g.onnx")
    optimize(tmp_path / "g.onnx")
    found = onnx.load(tmp_path / "g.onnx")
    assert sorted(node.op_type for node in found.graph.node) == ["Add", "MatMul", "Mul", "Softmax"]
    assert not any(node.attribute for node in found.graph.node)
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", 18)]
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]
