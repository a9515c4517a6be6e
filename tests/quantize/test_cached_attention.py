"""The function ``CachedAttention``: its kernel and ONNX Runtime's operator say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantize.graph.functions import CACHED_ATTENTION, DOMAIN
from edgeseq.quantize.graph.writer import add_function
from edgeseq.runtime.native.library import find_library, processor_kernels

Array = NDArray[Any]
Feeds = dict[str, Array]
f32 = np.float32
HEADS, SIZE = 2, 16
SCALES = {"k_scale": 0.031, "v_scale": 0.023}
INPUTS = ("qkv", "past_key", "past_value", "seqlens_k", "total_sequence_length")
OUTPUTS = ("y", "present_key", "present_value")

pytestmark = pytest.mark.skipif(
    processor_kernels() is None, reason="there are no kernels for this processor"
)


def graph(window: int = -1, has_bias: bool = False) -> bytes:
    kinds = {
        "qkv": (TensorProto.FLOAT, 3),
        "past_key": (TensorProto.INT8, 4),
        "past_value": (TensorProto.INT8, 4),
        "seqlens_k": (TensorProto.INT32, 1),
        "total_sequence_length": (TensorProto.INT32, 0),
        "attention_bias": (TensorProto.FLOAT, 4),
        "y": (TensorProto.FLOAT, 3),
        "present_key": (TensorProto.INT8, 4),
        "present_value": (TensorProto.INT8, 4),
    }

    def values(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, kinds[name][0], [None] * kinds[name][1])
            for name in names
        ]

    biases = ["attention_bias"] if has_bias else []
    node = helper.make_node(
        CACHED_ATTENTION,
        [*INPUTS, *SCALES, *biases],
        list(OUTPUTS),
        domain=DOMAIN,
        num_heads=HEADS,
        scale=0.25,
        local_window_size=window,
    )
    scales = [numpy_helper.from_array(np.array([x], f32), name) for name, x in SCALES.items()]
    model = helper.make_model(
        helper.make_graph([node], "attention", values([*INPUTS, *biases]), values(OUTPUTS), scales),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    add_function(model, CACHED_ATTENTION)
    made: bytes = model.SerializeToString()
    return made


def session(model: bytes, *, native: bool, threads: int = 2) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if native:
        options.register_custom_ops_library(str(find_library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds(lengths: list[int], tokens: int, capacity: int, bias: tuple[int, int] | None) -> Feeds:
    rng = np.random.default_rng(len(lengths) + tokens)
    rows, total = len(lengths), max(lengths)
    cache = (rows, HEADS, capacity, SIZE)
    made = {
        "qkv": rng.normal(size=(rows, tokens, 3 * HEADS * SIZE)).astype(f32),
        "past_key": rng.integers(-128, 128, cache).astype(np.int8),
        "past_value": rng.integers(-128, 128, cache).astype(np.int8),
        "seqlens_k": np.array(lengths, np.int32) - 1,
        "total_sequence_length": np.array(total, np.int32),
    }
    if bias is not None:
        made["attention_bias"] = rng.normal(size=(*bias, tokens, total)).astype(f32)
    return made


def run_in_place(found: onnxruntime.InferenceSession, inputs: Feeds) -> list[Array]:
    """Run with the past's memory as the present's."""
    own = {name: array.copy() for name, array in inputs.items()}
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in own.items()}
    binding = found.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y")
    for name in ("key", "value"):
        binding.bind_ortvalue_output(f"present_{name}", values[f"past_{name}"])
    found.run_with_iobinding(binding)
    return [output.numpy().copy() for output in binding.get_outputs()]


def run_apart(found: onnxruntime.InferenceSession, inputs: Feeds) -> list[Array]:
    outputs: list[Array] = found.run(list(OUTPUTS), inputs)
    return outputs


SHAPES = {  # lengths, new tokens, capacity
    "the first token": ([1], 1, 4),
    "one token": ([40], 1, 64),
    "one token of each row": ([40, 3, 17], 1, 50),
    "a padded prompt": ([20, 7], 20, 40),
    "a chunk": ([200], 70, 200),
    "a few tokens": ([33], 5, 40),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("window", [-1, 7, 33])
@pytest.mark.parametrize("bias", [None, (1, 1), (1, HEADS)], ids=["plain", "one bias", "biases"])
@pytest.mark.parametrize("run", [run_in_place, run_apart], ids=["in place", "apart"])
def test_the_kernel_agrees_with_the_operator(
    shape: tuple[list[int], int, int],
    window: int,
    bias: tuple[int, int] | None,
    run: Callable[[onnxruntime.InferenceSession, Feeds], list[Array]],
) -> None:
    """Outputs are the same but for the last digits, and the whole caches are equal."""
    lengths, tokens, capacity = shape
    inputs, model = feeds(lengths, tokens, capacity, bias), graph(window, bias is not None)
    native, stock = (run(session(model, native=which), inputs) for which in (True, False))
    for row, length in enumerate(lengths):
        pairs = (y[row, : min(tokens, length)] for y in (native[0], stock[0]))
        np.testing.assert_allclose(*pairs, rtol=1e-4, atol=1e-5)
    for found, expected in zip(native[1:], stock[1:], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_cache_without_room_grows() -> None:
    inputs = feeds([5], 5, 0, None)
    native, stock = (run_apart(session(graph(), native=which), inputs) for which in (True, False))
    assert native[1].shape == (1, HEADS, 5, SIZE)
    for found, expected in zip(native[1:], stock[1:], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_codes_are_those_of_the_operator() -> None:
    """Also of ties, of values beyond the codes, and of what is no number."""
    inputs, rng = feeds([100], 100, 100, None), np.random.default_rng(0)
    x = inputs["qkv"]
    x *= rng.choice(np.array([1e-3, 1, 100, 1e10], f32), size=x.shape)
    ties = x.reshape(-1)[::7]
    ties[:] = rng.integers(-260, 260, len(ties)) / 2 * 0.031
    x[0, 5, ::13], x[0, 6, ::11], x[0, 7, ::11] = np.nan, np.inf, -np.inf
    native, stock = (run_apart(session(graph(), native=which), inputs) for which in (True, False))
    for found, expected in zip(native[1:], stock[1:], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_matter(threads: int) -> None:
    for lengths, tokens, capacity in SHAPES.values():
        inputs = feeds(lengths, tokens, capacity, None)
        one, several = (
            run_in_place(session(graph(), native=True, threads=n), inputs) for n in (1, threads)
        )
        for found, expected in zip(several, one, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seqlens_k": [-1]}, "length is not between 1 and the total length"),
        ({"seqlens_k": [40]}, "length is not between 1 and the total length"),
        ({"seqlens_k": [2**31 - 1]}, "length is not between 1 and the total length"),
        ({"total_sequence_length": 90, "seqlens_k": [89]}, "more past keys than the KV cache"),
        ({"seqlens_k": [39, 39]}, "a length for each row"),
        ({"total_sequence_length": -1}, "length is not between 1 and the total length"),
        ({"qkv": np.zeros((1, 1, 95), f32)}, "are (rows, tokens, 3 * features)"),
        ({"qkv": np.zeros((1, 1, 90), f32)}, "are (rows, heads, capacity, head size)"),
        ({"qkv": np.zeros((2, 1, 96), f32)}, "are (rows, heads, capacity, head size)"),
        ({"past_key": np.zeros((1, 2, 49, 16), np.int8)}, "(rows, heads, capacity, head size)"),
        ({"attention_bias": np.zeros((1, 2, 1, 39), f32)}, "(rows, heads, tokens, total length)"),
        ({"attention_bias": np.zeros((1, 2, 2, 40), f32)}, "(rows, heads, tokens, total length)"),
        ({"attention_bias": np.zeros((3, 2, 1, 40), f32)}, "(rows, heads, tokens, total length)"),
    ],
)
def test_what_does_not_fit_is_an_error(changes: dict[str, Any], message: str) -> None:
    inputs = feeds([40], 1, 50, (1, 1))
    inputs |= {name: np.asarray(value, inputs[name].dtype) for name, value in changes.items()}
    with pytest.raises(Exception) as info:
        run_apart(session(graph(has_bias=True), native=True), inputs)
    assert message.removeprefix("are ") in str(info.value)


def test_a_window_needs_a_key() -> None:
    with pytest.raises(Exception, match="a window of -1 or at least 1"):
        session(graph(window=0), native=True)
