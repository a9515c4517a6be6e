"""Equalizing around attentions with rotary embeddings, shared keys and separate layers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeseq.quantize.equalizing import equalize
from edgeseq.quantize.graph.attentions import attentions
from edgeseq.quantize.graph.network import Network

WIDTH, SIZE, TOKENS = 32, 16, 7
FLOAT, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
Arrays = dict[str, NDArray[Any]]


def network(
    folder: Path,
    *,
    heads: int = 2,
    kv_heads: int = 2,
    fused: bool = True,
    rotated: int = 0,
    interleaved: bool = False,
    cosines_known: bool = True,
) -> Network:
    """Return a network of one attention between linear layers."""
    rng = np.random.default_rng(0)
    columns = {"q": heads * SIZE, "k": kv_heads * SIZE, "v": kv_heads * SIZE}
    if fused:
        columns = {"qkv": sum(columns.values())}
    weights: Arrays = {n: rng.normal(size=(WIDTH, c)) for n, c in columns.items()}
    weights |= {f"{n}.bias": rng.normal(size=c) for n, c in columns.items()}
    weights["o"] = rng.normal(size=(heads * SIZE, WIDTH))
    for array in (weights["qkv"] if fused else weights["k"], weights["o"]):
        array[:, ::3] *= 5  # ranges that differ
    angles = np.arange(16)[:, None] / 10 ** np.linspace(0, 2, max(rotated // 2, 1))
    tables = {"cos": np.cos(angles), "sin": np.sin(angles)} if rotated else {}
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, [1, TOKENS, WIDTH]),
        helper.make_tensor_value_info("seqlens_k", INT32, [1]),
        helper.make_tensor_value_info("total", INT32, []),
        *(
            helper.make_tensor_value_info(f"past_key_values.0.{n}", FLOAT, [1, kv_heads, 0, SIZE])
            for n in ("key", "value")
        ),
    ]
    initializers = []
    (folder / "weights.bin").write_bytes(b"")
    stored = {**weights, **(tables if cosines_known else {})}
    with (folder / "weights.bin").open("wb") as file:
        for name, array in stored.items():
            data = np.ascontiguousarray(array, np.float32)
            tensor = onnx.TensorProto(name=name, data_type=FLOAT, dims=data.shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": "weights.bin", "offset": file.tell(), "length": data.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(data.tobytes())
            initializers.append(tensor)
    nodes = []
    for name in columns:
        nodes.append(helper.make_node("MatMul", ["x", name], [f"{name}.product"]))
        nodes.append(helper.make_node("Add", [f"{name}.product", f"{name}.bias"], [f"{name}.sum"]))
    if tables and not cosines_known:
        for name, array in tables.items():
            tensor = numpy_helper.from_array(np.float32(array), f"{name}.table")
            initializers.append(tensor)
            nodes.append(helper.make_node("Identity", [f"{name}.table"], [name]))
    sums = [f"{name}.sum" for name in columns]
    nodes.append(
        helper.make_node(
            "GroupQueryAttention",
            [
                *(sums if not fused else [*sums, "", ""]),
                *("past_key_values.0.key", "past_key_values.0.value", "seqlens_k", "total"),
                *(["cos", "sin"] if tables else []),
            ],
            ["attended", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=0.25,
            do_rotary=int(bool(tables)),
            rotary_interleaved=int(interleaved),
        )
    )
    nodes.append(helper.make_node("MatMul", ["attended", "o"], ["y"]))
    outputs = [onnx.ValueInfoProto(name=n) for n in ("y", "present.0.key", "present.0.value")]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "graph.onnx")
    bundle: Any = SimpleNamespace(
        manifest=SimpleNamespace(graphs={"decoder": "graph.onnx"}), file=lambda name: folder / name
    )
    return Network(bundle, "decoder")


def outputs(found: Network) -> Arrays:
    """Run the network with its weights as they are now."""
    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    del model.graph.initializer[:]
    model.graph.initializer.extend(found.constants)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, np.float32), name)
        for name, array in found.weights.items()
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kv_heads = next(attentions(found)).kv_heads
    empty = np.zeros((1, kv_heads, 0, SIZE), np.float32)
    feed = {
        "x": np.random.default_rng(1).normal(size=(1, TOKENS, WIDTH)).astype(np.float32),
        "seqlens_k": np.array([TOKENS - 1], np.int32),
        "total": np.array(TOKENS, np.int32),
        "past_key_values.0.key": empty,
        "past_key_values.0.value": empty,
    }
    names = ["y", "present.0.key", "present.0.value"]
    return dict(zip(names, session.run(names, feed), strict=True))


def peaks(values: Arrays) -> Arrays:
    return {f"0.{n}": np.abs(values[f"present.0.{n}"][0]).max(axis=1) for n in ("key", "value")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fused": False},
        {"heads": 4, "kv_heads": 2},
        {"heads": 4, "kv_heads": 1, "fused": False},
        {"rotated": 16},
        {"rotated": 16, "interleaved": True},
        {"rotated": 16, "cosines_known": False},
        {"rotated": 16, "heads": 4, "fused": False},
    ],
    ids=lambda options: ", ".join(options) or "fused",
)
def test_the_model_stays_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    found = network(tmp_path, **options)
    before = outputs(found)
    result = equalize(found, peaks(before))
    after = outputs(found)
    assert np.abs(after["y"] - before["y"]).max() < 1e-4 * np.abs(before["y"]).max()
    for name, peak in peaks(after).items():
        assert peak.max() == pytest.approx(result.peaks[name], rel=1e-3)
    values = peaks(after)["0.value"]
    assert values == pytest.approx(np.full_like(values, result.peaks["0.value"]), rel=1e-3)
    keys = peaks(after)["0.key"]
    if not options.get("rotated"):
        assert keys == pytest.approx(np.full_like(keys, result.peaks["0.key"]), rel=1e-3)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_pairs_share_a_factor(interleaved: bool, tmp_path: Path) -> None:
    [found] = attentions(network(tmp_path, rotated=16, interleaved=interleaved))
    assert found.is_rotary
    assert found.rotated == 16
    peaks = np.arange(32, dtype=np.float32).reshape(2, 16)
    shared = found.shared_by_pairs(peaks)
    for first in range(8):
        pair = (2 * first, 2 * first + 1) if interleaved else (first, first + 8)
        assert (shared[:, pair] == peaks[:, pair].max(axis=1, keepdims=True)).all()


def test_a_head_has_one_factor_where_the_pairs_are_unknown(tmp_path: Path) -> None:
    [found] = attentions(network(tmp_path, rotated=16, cosines_known=False))
    assert found.rotated is None
    peaks = np.arange(32, dtype=np.float32).reshape(2, 16)
    assert (found.shared_by_pairs(peaks) == [[15], [31]]).all()


def test_keys_that_no_layer_makes_alone_keep_their_ranges(tmp_path: Path) -> None:
    """Here a function of the keys stands between the layer and the attention."""
    found = network(tmp_path, fused=False)
    node = next(node for node in found.graph.node if node.output[0] == "k.sum")
    node.output[0] = "k.linear"
    found.graph.node.insert(6, helper.make_node("Tanh", ["k.linear"], ["k.sum"]))
    before = outputs(found)
    result = equalize(found, peaks(before))
    assert result.peaks["0.key"] == pytest.approx(np.abs(before["present.0.key"]).max())
    after = outputs(found)
    assert np.array_equal(after["present.0.key"], before["present.0.key"])
    assert np.abs(after["y"] - before["y"]).max() < 1e-4 * np.abs(before["y"]).max()
