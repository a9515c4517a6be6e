"""The function ``BlockLookup``: its kernel and ONNX Runtime's operator return the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantize.graph.functions import BLOCK_LOOKUP, DOMAIN
from edgeseq.quantize.graph.writer import add_function
from edgeseq.runtime.native.library import find_library, processor_kernels

Array = NDArray[Any]
ROWS, WIDTH = 50, 96
IDS = np.array([[3, 0, 49], [7, 7, 20]])

pytestmark = pytest.mark.skipif(
    processor_kernels() is None, reason="there are no kernels for this processor"
)


def graph(
    bits: int, block_size: int, dtype: DTypeLike = np.float16, *, zero_points: bool = False
) -> bytes:
    rng = np.random.default_rng(bits * block_size)
    blocks = WIDTH // block_size
    weights = {
        "codes": rng.integers(0, 256, (ROWS, WIDTH * bits // 8)).astype(np.uint8),
        "scales": rng.normal(size=(ROWS, blocks)).astype(np.float16).astype(dtype),
    }
    if zero_points:
        middle = {8: 0x80, 4: 0x88}[bits]
        weights["zeros"] = np.full((ROWS, -(-blocks * bits // 8)), middle, np.uint8)
    inputs = ["codes", "ids", "scales", *(["zeros"] if zero_points else [])]
    node = helper.make_node(
        BLOCK_LOOKUP, inputs, ["y"], domain=DOMAIN, bits=bits, block_size=block_size
    )
    model = helper.make_model(
        helper.make_graph(
            [node],
            "lookup",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, [None, None])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None, WIDTH])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    add_function(model, BLOCK_LOOKUP)
    made: bytes = model.SerializeToString()
    return made


def look_up(model: bytes, ids: Array, *, native: bool) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if native:
        options.register_custom_ops_library(str(find_library()))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows: Array = session.run(None, {"ids": ids})[0]
    return rows


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("bits", "block_size"), [(8, 32), (4, 32), (8, 16)])
def test_rows(bits: int, block_size: int, dtype: DTypeLike, zero_points: bool) -> None:
    model = graph(bits, block_size, dtype, zero_points=zero_points)
    expected = look_up(model, IDS, native=False)
    found = look_up(model, IDS, native=True)
    assert found.shape == (2, 3, WIDTH)
    assert np.array_equal(found, expected)


def test_no_ids() -> None:
    assert look_up(graph(8, 32), np.empty((1, 0), np.int64), native=True).shape == (1, 0, WIDTH)


@pytest.mark.parametrize("wrong", [-1, ROWS, 2**40])
def test_an_id_that_is_not_in_the_table(wrong: int) -> None:
    with pytest.raises(Exception, match="An id is not in the table of BlockLookup"):
        look_up(graph(8, 32), np.array([[0, wrong]]), native=True)


def test_scales_that_do_not_fit() -> None:
    model = graph(8, 32).replace(b"block_size\x18\x20", b"block_size\x18\x10")
    with pytest.raises(Exception, match="The scales of BlockLookup do not fit its codes"):
        look_up(model, IDS, native=True)
