"""Integers that quantized graphs compute, compared with numpy's, up to the ends of their ranges.

Graphs of one layer, with codes and scales that are chosen, so that every activation is an integer
that the graph's own rounding meets, and every sum one that float32 holds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantize.graph.network import Network
from edgeseq.quantize.graph.rewriting import rewrite
from edgeseq.quantize.rounding import Codes
from edgeseq.quantize.weight_storages import BLOCK_SIZES, Blockwise, DynamicInt8, Rounded
from edgeseq.runtime.bundle.weights_file import WeightsFile
from edgeseq.runtime.native.library import Kernels, find_library
from edgeseq.runtime.ort.graph_session import open_session

Array = NDArray[Any]
Storage = DynamicInt8 | Blockwise
Run = Callable[[Array], Array]
STORAGES: list[Storage] = [
    DynamicInt8(),
    *(Blockwise(bits, size) for bits in (4, 8) for size in BLOCK_SIZES),
]
TABLES = [Blockwise(8, 64), Blockwise(8, 32), Blockwise(4, 32)]
ROWS = (1, 2, 7, 65)  # one row and several take other kernels
SHAPES = ((64, 16), (768, 40), (100, 33), (16, 1))  # inputs, outputs


@pytest.fixture(params=["native", "stock"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """edgeseq's kernels, and ONNX Runtime's operators."""
    chosen: Kernels = request.param
    if chosen == "native" and find_library() is None:
        pytest.skip("edgeseq is installed without its kernels")
    return chosen


def limits(storage: Storage) -> tuple[int, int]:
    bits = 7 if isinstance(storage, DynamicInt8) else storage.bits
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def layer_codes(storage: Storage, codes: Array, scale: float = 1.0) -> Codes:
    size = len(codes) if isinstance(storage, DynamicInt8) else storage.block_size
    groups = -(-len(codes) // size)
    scales = np.full((groups, codes.shape[1]), scale, np.float32)
    return Codes(np.ascontiguousarray(codes, np.int8), scales, size)


def compiled(
    folder: Path,
    kernels: Kernels,
    node: onnx.NodeProto,
    weight: Array,
    storage: Storage,
    codes: Codes,
) -> Run:
    """Return a session of ``node``, which computes ``y`` from ``x`` and the codes ``w``."""
    ids = node.op_type == "Gather"
    kind, shape = (
        (TensorProto.INT64, ["n"]) if ids else (TensorProto.FLOAT, ["n", len(codes.codes)])
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "layer.onnx"
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    bundle: Any = SimpleNamespace(
        manifest=SimpleNamespace(graphs={"decoder": path.name}), file=lambda name: folder / name
    )
    with WeightsFile(folder / "weights.bin") as weights_file:
        network = Network(bundle, "decoder")
        onnx.save(rewrite(network, {"w": Rounded(storage, codes)}, weights_file).model(), path)
    session = open_session(path, threads=1, kernels=kernels)
    return lambda x: session.run(["y"], {"x": x})[0]


def product(
    folder: Path, kernels: Kernels, storage: Storage, codes: Codes, *, table: bool = False
) -> Run:
    if table:  # stored as (outputs, inputs)
        node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
        return compiled(
            folder, kernels, node, np.zeros(codes.codes.T.shape, np.float32), storage, codes
        )
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return compiled(folder, kernels, node, np.zeros(codes.codes.shape, np.float32), storage, codes)


def integers(rows: int, inputs: int, seed: int = 0) -> Array:
    """Return activations from -127 to 127, an end in every 16, which are their own codes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-127, 128, (rows, inputs))
    x[:, ::16] = rng.choice([-127, 127], x[:, ::16].shape)
    return x.astype(np.float32)


def expected(x: Array, codes: Array) -> Array:
    """Return the product in 64-bit integers as float32; it has to fit into 32 bits."""
    result = x.astype(np.int64) @ codes.astype(np.int64)
    assert np.abs(result).max(initial=0) < 2**31
    return result.astype(np.float32)


@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES, ids=str)
def test_random_codes(
    storage: Storage, inputs: int, outputs: int, kernels: Kernels, tmp_path: Path
) -> None:
    low, high = limits(storage)
    codes = np.random.default_rng(1).integers(low, high + 1, (inputs, outputs))
    run = product(tmp_path, kernels, storage, layer_codes(storage, codes))
    for rows in ROWS:
        x = integers(rows, inputs)
        assert (run(x) == expected(x, codes)).all()


@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize("inputs", [64, 768])
def test_codes_at_the_ends(storage: Storage, inputs: int, kernels: Kernels, tmp_path: Path) -> None:
    """Every activation is -127 or 127: all the same, alternating, and in pairs."""
    low, high = limits(storage)
    turns = np.arange(inputs) % 2 == 0
    pairs = np.arange(inputs) % 4 < 2
    columns = [
        np.full(inputs, low),
        np.full(inputs, high),
        np.where(turns, low, high),
        np.where(pairs, low, high),
    ]
    codes = np.stack(columns, axis=1)
    signs = [np.ones(inputs), -np.ones(inputs), np.where(turns, 1, -1), np.where(pairs, -1, 1)]
    x = (127 * np.stack(signs)).astype(np.float32)
    run = product(tmp_path, kernels, storage, layer_codes(storage, codes))
    assert (run(x) == expected(x, codes)).all()
    for row in x:
        assert (run(row[None]) == expected(row[None], codes)).all()


@pytest.mark.parametrize("code", [-64, 63])
@pytest.mark.parametrize("activation", [-127, 127])
def test_the_largest_sums_of_int8(
    code: int, activation: int, kernels: Kernels, tmp_path: Path
) -> None:
    """float32 holds sums of 3072 products of extreme values: 3072 has ten zero bits."""
    codes = np.full((3072, 24), code)
    run = product(tmp_path, kernels, DynamicInt8(), layer_codes(DynamicInt8(), codes))
    for rows in ROWS:
        x = np.full((rows, 3072), activation, np.float32)
        assert (run(x) == 3072 * code * activation).all()


def test_long_sums_of_int8_are_rounded_once(kernels: Kernels, tmp_path: Path) -> None:
    codes = np.random.default_rng(2).choice([-64, 63], (3072, 24))
    x = np.random.default_rng(3).choice([-127.0, 127.0], (5, 3072)).astype(np.float32)
    x[0] = np.where(codes[:, 0] < 0, -127, 127)  # beyond 2^24
    assert (
        product(tmp_path, kernels, DynamicInt8(), layer_codes(DynamicInt8(), codes))(x)
        == expected(x, codes)
    ).all()


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_scales_of_rows_and_columns(storage: Storage, kernels: Kernels, tmp_path: Path) -> None:
    """Scales are powers of two, so that products stay exact."""
    low, high = limits(storage)
    codes = np.random.default_rng(4).integers(low, high + 1, (768, 5))
    powers = np.float32([1, -0.5, 4, 2**-20, 2**10])
    chosen = layer_codes(storage, codes)
    chosen.scales[:] = powers
    run = product(tmp_path, kernels, storage, chosen)
    x = integers(4, 768)
    factors = np.float32([[1], [2**-12], [8], [2**20]])
    assert (run(x * factors) == expected(x, codes) * factors * powers).all()


@pytest.mark.parametrize("size", BLOCK_SIZES)
@pytest.mark.parametrize("bits", [4, 8])
def test_every_block_has_its_scale(bits: Any, size: int, kernels: Kernels, tmp_path: Path) -> None:
    storage = Blockwise(bits, size)
    codes = np.random.default_rng(5).integers(-8, 8, (512, 3))
    chosen = layer_codes(storage, codes)
    chosen.scales[:] = 2.0 ** np.arange(chosen.scales.size).reshape(chosen.scales.shape) % 7
    weight = codes * np.repeat(chosen.scales, size, axis=0)
    x = integers(3, 512)
    result = product(tmp_path, kernels, storage, chosen)(x)
    assert result == pytest.approx(x.astype(np.float64) @ weight, rel=1e-6, abs=1e-3)


# Tables


@pytest.mark.parametrize("inputs", [64, 768, 100, 50])
@pytest.mark.parametrize("storage", TABLES, ids=str)
def test_lm_head(inputs: int, storage: Blockwise, kernels: Kernels, tmp_path: Path) -> None:
    low, high = limits(storage)
    codes = np.random.default_rng(6).integers(low, high + 1, (inputs, 320))
    run = product(tmp_path, kernels, storage, layer_codes(storage, codes), table=True)
    for rows in ROWS:
        x = integers(rows, inputs)
        assert (run(x) == expected(x, codes)).all()


@pytest.mark.parametrize("inputs", [64, 128, 100, 50, 1])
@pytest.mark.parametrize("storage", TABLES, ids=str)
def test_embedding(inputs: int, storage: Blockwise, kernels: Kernels, tmp_path: Path) -> None:
    """Rows of the table are exactly its codes times their scales."""
    rng, (low, high) = np.random.default_rng(7), limits(storage)
    codes = layer_codes(storage, rng.integers(low, high + 1, (inputs, 30)))
    codes.scales[:] = rng.normal(size=codes.scales.shape)
    node = helper.make_node("Gather", ["w", "x"], ["y"])
    run = compiled(tmp_path, kernels, node, np.zeros((30, inputs), np.float32), storage, codes)
    ids = np.array([0, 29, 7, 7, 3])
    assert (run(ids) == codes.weight().T[ids]).all()


# Zeros


@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_zeros_give_zeros(
    storage: Storage, rows: int, kernels: Kernels, tmp_path: Path
) -> None:
    low, high = limits(storage)
    codes = np.random.default_rng(8).integers(low, high + 1, (100, 20))
    run = product(tmp_path, kernels, storage, layer_codes(storage, codes))
    assert (run(np.zeros((rows, 100), np.float32)) == 0).all()
    x = integers(rows + 2, 100)
    x[1] = 0
    x[-1] = -0.0
    assert (run(x) == expected(x, codes)).all()  # NaN equals nothing


@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize("tiny", [1e-45, 1e-43, 1e-41, 1e-38])
def test_denormal_rows_stay_tiny_and_change_no_other_row(
    storage: Storage, tiny: float, kernels: Kernels, tmp_path: Path
) -> None:
    """Denormal values give no NaN and nothing large, and do not change other rows."""
    low, high = limits(storage)
    codes = np.random.default_rng(9).integers(low, high + 1, (100, 20))
    run = product(tmp_path, kernels, storage, layer_codes(storage, codes))
    x = integers(3, 100)
    x[1] = np.where(x[1] < 0, -tiny, tiny)
    result = run(x)
    assert (np.abs(result[1]) < 1e-33).all()
    assert (result[[0, 2]] == expected(x[[0, 2]], codes)).all()
