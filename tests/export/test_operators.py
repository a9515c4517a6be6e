"""Operators of the exported graphs: torch's computation and ONNX Runtime's agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgeseq.export.graphs.attention import (
    BLOCK,
    BLOCKED_SELF_ATTENTION,
    BlockedSelfAttention,
    GroupQueryAttention,
    MultiHeadAttention,
)
from edgeseq.export.graphs.operators import (
    FastGelu,
    SimplifiedLayerNormalization,
    SkipSimplifiedLayerNormalization,
    TransposedMatMul,
)
from edgeseq.runtime.ort.graph_session import GraphSession, open_session

INT32, INT64, FLOAT = onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT


class Applied(torch.nn.Module):
    """A module of one operator with its settings, to be exported alone."""

    def __init__(self, operator: type[torch.autograd.Function], *settings: Any) -> None:
        super().__init__()
        self.operator = operator
        self.settings = settings

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.operator.apply(*tensors, *self.settings)


def session_of(
    module: torch.nn.Module,
    tensors: Sequence[torch.Tensor],
    outputs: Sequence[str],
    path: Path,
    functions: Sequence[str] = (),
    axes: dict[str, dict[int, str]] | None = None,
) -> tuple[GraphSession, list[str]]:
    """A session over what ``symbolic`` emits, and the names of its inputs.

    ``functions``: in ONNX's text form; ``axes``: names of each tensor's axes that may change.
    """
    names = [f"input_{i}" for i in range(len(tensors))]
    torch.onnx.export(
        module,
        tuple(tensors),
        str(path),
        input_names=names,
        output_names=list(outputs),
        dynamo=False,
        opset_version=18,
        dynamic_axes=axes,
    )
    for function in functions:
        model = onnx.load(path)
        model.functions.append(onnx.parser.parse_function(function))
        onnx.save(model, path)
    return open_session(path, threads=1), names


class Rotated(torch.nn.Module):
    """Attention that rotates queries and keys, to be exported alone."""

    def forward(self, *tensors: torch.Tensor) -> Any:
        tables = tensors[5:]
        return GroupQueryAttention.apply(*tensors[:5], None, HEADS, SCALE, None, *tables)


def normal(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


SIMPLE_OPERATORS: dict[str, tuple[Applied, list[torch.Tensor]]] = {
    "simplified_layer_normalization": (
        Applied(SimplifiedLayerNormalization, 1e-3),
        [normal(0, 5, 12), normal(1, 12)],
    ),
    "skip_simplified_layer_normalization": (
        Applied(SkipSimplifiedLayerNormalization, 1e-3),
        [normal(0, 5, 12), normal(1, 5, 12), normal(2, 12)],
    ),
    "fast_gelu": (Applied(FastGelu), [3 * normal(0, 5, 12), normal(1, 12)]),
    "fast_gelu_without_bias": (Applied(FastGelu, None), [3 * normal(0, 5, 12)]),
    "transposed_mat_mul": (Applied(TransposedMatMul), [normal(0, 5, 12), normal(1, 9, 12)]),
}


@pytest.mark.parametrize("name", SIMPLE_OPERATORS)
def test_operator_computes_what_its_torch_form_does(name: str, tmp_path: Path) -> None:
    module, tensors = SIMPLE_OPERATORS[name]
    expected = module(*tensors)
    expected = expected if isinstance(expected, tuple) else (expected,)
    outputs = [f"output_{i}" for i in range(len(expected))]
    session, names = session_of(module, tensors, outputs, tmp_path / "operator.onnx")
    feed = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
    for actual, wanted in zip(session.run(outputs, feed), expected, strict=True):
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=0, atol=2e-6)


HEADS, HEAD_SIZE, CAPACITY, SCALE = 3, 8, 9, 0.3


@pytest.mark.parametrize(
    ("n", "filled"),
    [
        pytest.param(5, [5, 2, 3], id="ragged prefill"),
        pytest.param(1, [1, 1, 1], id="prefill of one token"),
        pytest.param(1, [4, 9, 2], id="ragged decode"),
        pytest.param(3, [7], id="several tokens after a past"),
    ],
)
@pytest.mark.parametrize("form", ["plain", "biased", "window 1", "window 3", "rotary"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_attention_computes_what_its_torch_form_does(
    n: int, filled: list[int], form: str, tmp_path: Path
) -> None:
    """The node writes the new keys and values in place."""
    rows, head_size = len(filled), 32 if form == "rotary" else HEAD_SIZE
    tensors = [
        normal(0, rows, n, 3 * HEADS * head_size),
        normal(1, rows, HEADS, CAPACITY, head_size),
        normal(2, rows, HEADS, CAPACITY, head_size),
        torch.tensor(filled, dtype=torch.int32) - 1,
        torch.tensor(max(filled), dtype=torch.int32),
    ]
    module: torch.nn.Module = Applied(GroupQueryAttention, None, HEADS, SCALE)
    if form == "biased":
        tensors.append(3 * normal(3, rows, HEADS, n, max(filled)))
        module = Applied(GroupQueryAttention, HEADS, SCALE)
    elif form.startswith("window"):
        module = Applied(GroupQueryAttention, None, HEADS, SCALE, int(form.split()[1]))
    elif form == "rotary":  # half of each head
        angles = torch.outer(torch.arange(CAPACITY).float(), 10 ** -torch.linspace(0, 1, 8))
        first = torch.tensor(filled)[:, None] - n
        positions = (first.clamp(min=0) + torch.arange(n)).long()
        tensors += [angles.cos(), angles.sin(), positions]
        module = Rotated()
    expected = [tensor.numpy() for tensor in module(*tensors)]
    outputs = ["attended", "present_key", "present_value"]
    session, names = session_of(module, tensors, outputs, tmp_path / "operator.onnx")
    actual = run_in_place(session, names, [tensor.numpy().copy() for tensor in tensors], outputs)
    for row, length in enumerate(filled):
        new = min(n, length)
        for got, wanted, end in zip(actual, expected, (new, length, length), strict=True):
            axis_of_length = 0 if got is actual[0] else 1
            got_row, wanted_row = (np.moveaxis(a[row], axis_of_length, 0) for a in (got, wanted))
            np.testing.assert_allclose(got_row[:end], wanted_row[:end], rtol=0, atol=2e-6)


def run_in_place(
    session: GraphSession, names: list[str], arrays: list[np.ndarray[Any, Any]], outputs: list[str]
) -> list[np.ndarray[Any, Any]]:
    """Return the attention's output, (rows, n, features), and the cache updated in place."""
    rows, n, features = arrays[0].shape
    attended = np.empty((rows, n, features // 3), np.float32)
    results = [attended, *arrays[1:3]]
    binding = session.io_binding()
    for name, array in zip(names, arrays, strict=True):
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in zip(outputs, results, strict=True):
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)
    return results


def run_one(
    session: GraphSession, names: Sequence[str], tensors: Sequence[torch.Tensor]
) -> np.ndarray[Any, Any]:
    """Return the only output of a run."""
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    (output,) = session.run(None, feed)
    attended: np.ndarray[Any, Any] = output
    return attended


@pytest.mark.parametrize("n", [1, 4], ids=lambda n: f"{n} rows a source")
@pytest.mark.parametrize(
    ("source", "lengths"),
    [(7, [7]), (7, [7, 7]), (7, [3, 7, 1]), (1, [1, 1]), (32, [32, 17, 5])],
    ids=str,
)
def test_cross_attention_computes_what_its_torch_form_does(
    n: int, source: int, lengths: list[int], tmp_path: Path
) -> None:
    batch, head_size = len(lengths), 6  # which need not be a multiple of 8 here
    tensors = [
        normal(0, batch, n, HEADS * head_size),
        normal(1, batch, HEADS, source, head_size),
        normal(2, batch, HEADS, source, head_size),
        torch.tensor(lengths, dtype=torch.int32),
    ]
    module = Applied(MultiHeadAttention, HEADS, SCALE)
    session, names = session_of(module, tensors, ["attended"], tmp_path / "operator.onnx")
    actual = run_one(session, names, tensors)
    np.testing.assert_allclose(actual, module(*tensors).numpy(), rtol=0, atol=2e-6)
    for item, length in enumerate(lengths):  # whatever the padding holds
        tensors[1][item, :, length:] = tensors[2][item, :, length:] = 1e30
    np.testing.assert_array_equal(run_one(session, names, tensors), actual)


@pytest.mark.parametrize(("source", "lengths"), [(7, [7]), (7, [3, 7, 1]), (32, [32, 17])], ids=str)
def test_encoder_attention_computes_what_its_torch_form_does(
    source: int, lengths: list[int], tmp_path: Path
) -> None:
    batch, head_size = len(lengths), 6
    tensors = [normal(i, batch, source, HEADS * head_size) for i in range(3)]
    tensors.append(torch.tensor(lengths, dtype=torch.int32))
    module = Applied(MultiHeadAttention, HEADS, SCALE)
    session, names = session_of(module, tensors, ["attended"], tmp_path / "operator.onnx")
    actual = run_one(session, names, tensors)
    expected = module(*tensors).numpy()
    for item, length in enumerate(lengths):  # padding is computed, and nobody reads it
        np.testing.assert_allclose(actual[item, :length], expected[item, :length], atol=2e-6)


LONG = 2 * BLOCK + 9


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Applied, GraphSession, list[str]]:
    """The encoder's attention, exported with a short source."""
    module = Applied(BlockedSelfAttention, HEADS)
    tensors = blocked_inputs(3, [3, 2], reach=4)
    states = {0: "batch", 1: "source"}
    axes = {f"input_{i}": states for i in range(3)}
    axes |= {"input_3": {1: "distances"}, "input_4": {0: "batch"}, "attended": states}
    return module, *session_of(
        module,
        tensors,
        ["attended"],
        tmp_path_factory.mktemp("blocked") / "operator.onnx",
        functions=[BLOCKED_SELF_ATTENTION],
        axes=axes,
    )


def blocked_inputs(source: int, lengths: Sequence[int], reach: int) -> list[torch.Tensor]:
    """Return query, key, value, biases and lengths; the head size is 6."""
    states = [normal(i, len(lengths), source, 6 * HEADS) for i in range(3)]
    table = 3 * normal(3, HEADS, 2 * reach + 1)
    return [*states, table, torch.tensor(lengths, dtype=torch.int32)]


@pytest.mark.parametrize("reach", [1, 5, BLOCK + 3, 3 * BLOCK], ids=lambda r: f"reach {r}")
@pytest.mark.parametrize(
    ("source", "lengths"),
    [
        pytest.param(1, [1], id="one token"),
        pytest.param(12, [12, 12], id="part of a block"),
        pytest.param(12, [5, 12, 1], id="part of a block, padded"),
        pytest.param(BLOCK, [BLOCK, 40], id="one block"),
        pytest.param(BLOCK + 1, [BLOCK + 1, BLOCK], id="one block and a token"),
        pytest.param(2 * BLOCK, [2 * BLOCK], id="two blocks"),
        pytest.param(LONG, [LONG, BLOCK + 2, 7], id="three blocks, padded"),
    ],
)
def test_blocked_attention_computes_what_its_torch_form_does(
    source: int, lengths: list[int], reach: int, blocked: tuple[Applied, GraphSession, list[str]]
) -> None:
    module, session, names = blocked
    tensors = blocked_inputs(source, lengths, reach)
    actual = run_one(session, names, tensors)
    assert actual.shape == (len(lengths), source, 6 * HEADS)
    np.testing.assert_allclose(actual, module(*tensors).numpy(), rtol=0, atol=3e-6)


@pytest.mark.parametrize("source", [12, LONG], ids=["one block", "three blocks"])
def test_blocked_attention_does_not_read_padding(
    source: int, blocked: tuple[Applied, GraphSession, list[str]]
) -> None:
    _, session, names = blocked
    lengths = [source, source // 2, 1]
    tensors = blocked_inputs(source, lengths, 5)
    before = run_one(session, names, tensors)
    for item, length in enumerate(lengths):
        for states in tensors[:3]:
            states[item, length:] = 1e30
    after = run_one(session, names, tensors)
    for item, length in enumerate(lengths):
        np.testing.assert_array_equal(after[item, :length], before[item, :length])
