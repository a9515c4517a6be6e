"""Smoothing of the inputs of layers: the logits stay, and the inputs have fewer outliers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel

from edgeseq.export import export_checkpoint
from edgeseq.quantize.calibration import Observed
from edgeseq.quantize.graph.network import Layer, Network, Weights
from edgeseq.quantize.graph.rewriting import rewrite
from edgeseq.quantize.smoothing import norm_vectors, readers, smooth, smoothing_factors
from edgeseq.quantize.weight_storages import Blockwise, DynamicInt8, Storage
from edgeseq.runtime.bundle.manifest import ROLES, WEIGHTS_FILE_NAME
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.bundle.weights_file import WeightsFile
from edgeseq.runtime.ort.graph_session import GraphSession
from edgeseq.runtime.request.passages import Window
from tests.support.calibration import observations
from tests.support.logits import logits_of

IDS = np.random.default_rng(0).integers(1, 320, (2, 60)).tolist()
WINDOWS = [Window(ids[:30], [0, *ids[30:]], 1) for ids in IDS]  # a decoder reads no source
OUTLIERS = (3, 17)  # channels of norms that are far larger than the others


@torch.no_grad()
def with_outliers(model: Any) -> None:
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and parameter.ndim == 1:
            parameter.normal_(0, 0.5)  # a bias of zeros would hide one that was forgotten
        norm = "ln_1" in name or "ln_2" in name or "layer_norm" in name
        if norm and "final" not in name:
            parameter[list(OUTLIERS)] *= 40


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def source(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    seeded_t5: Callable[..., Any],
    save_t5: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    if request.param == "gpt2":
        checkpoint = make_checkpoint()
        model = GPT2LMHeadModel.from_pretrained(checkpoint)
        with_outliers(model)
        model.save_pretrained(checkpoint)
    else:
        model = seeded_t5(feed_forward_proj="gated-gelu")
        with_outliers(model)
        checkpoint = save_t5(model)
    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("bundle") / request.param)


def smoothed(source: Bundle, folder: Path) -> tuple[Bundle, dict[str, NDArray[np.float32]]]:
    """Write the bundle with smoothed inputs to ``folder``; return it and the divisors."""
    folder.mkdir()
    networks = {role: Network(source, role) for role in ROLES[source.manifest.kind]}
    factors = {}
    for part in observations(source, WINDOWS, networks):
        network = networks[part.role]
        for name, seen in part.inputs.items():
            found = smoothing_factors(network, name, seen.peaks, seen.rows, DynamicInt8())
            if found is not None:
                smooth(network, name, found)
                factors[f"{part.role} {name}"] = found
    with WeightsFile(folder / WEIGHTS_FILE_NAME) as weights_file:
        for role, network in networks.items():
            model = rewrite(network, {}, weights_file).model()
            onnx.save(model, folder / source.manifest.graphs[role])
    return Bundle(folder, replace(source.manifest, shared_weights={})), factors


def inputs_of(bundle: Bundle) -> dict[str, Observed]:
    parts = observations(bundle, WINDOWS)
    return {f"{part.role} {name}": seen for part in parts for name, seen in part.inputs.items()}


def test_logits_stay(source: Bundle, tmp_path: Path) -> None:
    changed, factors = smoothed(source, tmp_path / "smoothed")
    assert len(factors) >= 3
    before = logits_of(source, WINDOWS)
    assert np.abs(logits_of(changed, WINDOWS) - before).max() < 1e-4 * np.abs(before).max()


def test_inputs_are_divided_by_the_returned_factors(source: Bundle, tmp_path: Path) -> None:
    changed, factors = smoothed(source, tmp_path / "smoothed")
    before, after = inputs_of(source), inputs_of(changed)
    for name, seen in before.items():
        expected = seen.rows / factors.get(name, np.float32(1))
        assert np.abs(after[name].rows - expected).max() < 1e-4 * np.abs(expected).max()


# By hand


def network(*nodes: onnx.NodeProto, **weights: NDArray[np.float32]) -> Any:
    layers = {
        i: Layer(node.input[1], node.input[0], is_table=node.op_type == "Gemm")
        for i, node in enumerate(nodes)
        if node.op_type in ("MatMul", "Gemm")
    }
    graph = SimpleNamespace(node=nodes)
    return SimpleNamespace(graph=graph, layers=layers, weights=Weights(weights))


def node(kind: str, *names: str, output: str = "y") -> onnx.NodeProto:
    return onnx.helper.make_node(kind, list(names), [output])


NORM = node("LayerNormalization", "a", "scale", "shift", output="x")
RMS = node("SimplifiedLayerNormalization", "a", "scale", output="x")
SKIP_RMS = node("SkipSimplifiedLayerNormalization", "a", "b", "scale", "bias", output="x")
FIRST, SECOND = node("MatMul", "x", "w"), node("MatMul", "x", "v", output="z")


@pytest.mark.parametrize(
    ("norm", "vectors"),
    [
        (NORM, ["scale", "shift"]),
        (RMS, ["scale"]),
        (SKIP_RMS, ["scale"]),
    ],
    ids=lambda item: item.op_type if isinstance(item, onnx.NodeProto) else "",
)
def test_the_vectors_that_scale_and_shift_a_norm(norm: onnx.NodeProto, vectors: list[str]) -> None:
    assert norm_vectors(network(norm), "x") == vectors
    assert norm_vectors(network(norm), "a") == []


def test_the_layers_that_read_a_tensor() -> None:
    assert readers(network(NORM, FIRST, SECOND), "x") == ["w", "v"]
    assert readers(network(NORM, FIRST, node("Add", "x", "x", output="z")), "x") == ["w"]
    assert readers(network(NORM, FIRST, node("Gemm", "x", "table", output="z")), "x") == []
    assert readers(network(NORM, FIRST, node("MatMul", "q", "w", output="z")), "x") == []


def example(*nodes: onnx.NodeProto) -> tuple[Any, NDArray[np.float32], NDArray[np.float32]]:
    """Return a network, its input ``x`` with a large channel, and its weights."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(64, 24)).astype(np.float32)
    rows[:, 5] *= 60
    weight = rng.normal(size=(24, 16)).astype(np.float32)
    vectors = {"scale": np.ones(24, np.float32), "shift": np.ones(24, np.float32)}
    return network(*nodes, w=weight, **vectors), rows, weight


@pytest.mark.parametrize(
    ("storage", "share"),
    [(DynamicInt8(), 0.2), (Blockwise(8, 16), 0.2), (Blockwise(4, 16), 0.8)],
    ids=str,
)
def test_a_large_channel_goes_into_the_weight(storage: Storage, share: float) -> None:
    graph, rows, weight = example(NORM, FIRST)
    factors = smoothing_factors(graph, "x", np.abs(rows).max(axis=0), rows, storage)
    assert factors is not None
    assert smooth(graph, "x", factors) == "x"
    assert int(factors.argmax()) == 5
    assert graph.weights["w"] == pytest.approx(weight * factors[:, None])
    assert graph.weights["scale"] == pytest.approx(1 / factors)
    assert graph.weights["shift"] == pytest.approx(1 / factors)
    exact = rows @ weight
    plain = rounded_product(rows, weight, storage)
    smooth_rows = rounded_product(rows / factors, graph.weights["w"], storage)
    assert np.square(smooth_rows - exact).sum() < share * np.square(plain - exact).sum()


def rounded_product(
    rows: NDArray[np.float32], weight: NDArray[np.float32], storage: Storage
) -> Any:
    """Return the product as the storage's kernel computes it: 8-bit rows or blocks of rows."""
    size = storage.block_size or rows.shape[1]
    codes = storage.round(weight, None)
    assert codes is not None
    coded = rows.copy()
    for start in range(0, rows.shape[1], size):
        block = coded[:, start : start + size]
        step = np.abs(block).max(axis=1, keepdims=True) / 127
        block[:] = np.rint(block / step) * step
    product: NDArray[np.float32] = coded @ codes.weight()
    return product


@pytest.mark.parametrize(
    "nodes",
    [
        (node("FastGelu", "a", output="x"), FIRST),
        (NORM, FIRST, node("Gemm", "x", "table", output="z")),
        (NORM, FIRST, node("MatMul", "q", "w", output="z")),
    ],
    ids=["no norm", "a table", "a shared weight"],
)
def test_what_cannot_be_smoothed_is_left_alone(nodes: tuple[onnx.NodeProto, ...]) -> None:
    graph, rows, weight = example(*nodes)
    assert smoothing_factors(graph, "x", np.abs(rows).max(axis=0), rows, DynamicInt8()) is None
    assert graph.weights["w"] is weight


@pytest.mark.parametrize("dead", ["channel", "weights", "all"])
def test_channels_that_are_never_used(dead: str) -> None:
    graph, rows, weight = example(NORM, FIRST)
    if dead == "weights":
        weight[[0, 7]] = 0
    else:
        rows[:, slice(None) if dead == "all" else [0, 7]] = 0
    factors = smoothing_factors(graph, "x", np.abs(rows).max(axis=0), rows, DynamicInt8())
    if factors is not None:
        smooth(graph, "x", factors)
    assert all(np.isfinite(array).all() for array in graph.weights.values())
    assert factors is None if dead == "all" else (factors is not None and factors[7] == 1)


# Norms after the sub-layer, whose output the next residual connection reads too


def post_norm(folder: Path) -> Network:
    """Return a network of a norm, two layers that read it, and a residual connection."""
    rng = np.random.default_rng(3)
    weights = {
        "scale": np.ones(24),
        "shift": rng.normal(size=24),
        "w": rng.normal(size=(24, 16)),
        "v": rng.normal(size=(24, 24)),
    }
    weights["scale"][5] = 60
    tensors = []
    with (folder / WEIGHTS_FILE_NAME).open("wb") as file:
        for name, array in weights.items():
            data = array.astype(np.float32)
            tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=data.shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS_FILE_NAME), ("offset", file.tell())):
                tensor.external_data.add(key=key, value=str(value))
            file.write(data.tobytes())
            tensors.append(tensor)
    nodes = [NORM, FIRST, SECOND, node("Add", "x", "z", output="sum")]
    value = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["tokens", 24])
    outputs = [onnx.ValueInfoProto(name=name) for name in ("x", "y", "sum")]
    graph = onnx.helper.make_graph(nodes, "graph", [value], outputs, tensors)
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "graph.onnx"
    )
    bundle: Any = SimpleNamespace(
        manifest=SimpleNamespace(graphs={"decoder": "graph.onnx"}), file=lambda name: folder / name
    )
    return Network(bundle, "decoder")


def test_a_norm_that_the_residual_reads_too(tmp_path: Path) -> None:
    """A node multiplies its output for the layers alone, by powers of two: nothing is rounded."""
    network = post_norm(tmp_path)
    exact = {name: np.array(network.weights[name]) for name in network.weights}
    rows = np.random.default_rng(4).normal(size=(64, 24)).astype(np.float32)
    rows[:, 5] *= 60
    factors = smoothing_factors(network, "x", np.abs(rows).max(axis=0), rows, DynamicInt8())
    assert factors is not None
    assert int(factors.argmax()) == 5
    assert (np.exp2(np.rint(np.log2(factors))) == factors).all()
    divided = smooth(network, "x", factors)
    assert divided != "x"
    assert {layer.input for layer in network.layers.values()} == {divided}
    assert sorted(layer.weight for layer in network.layers.values()) == ["v", "w"]
    for name in ("scale", "shift"):
        assert np.array_equal(network.weights[name], exact[name])
    with WeightsFile(tmp_path / "smoothed.bin") as weights_file:
        model = rewrite(network, {}, weights_file).model()
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = "smoothed.bin"
    feed = {"a": rows}
    before = GraphSession(tmp_path / "graph.onnx", threads=1).run(None, feed)
    after = GraphSession(model.SerializeToString(), threads=1, folder=tmp_path).run(None, feed)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
