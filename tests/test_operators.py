"""The exported graphs' own operators: torch's reference and ONNX Runtime's node agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgeseq.export.operators import (
    FastGelu,
    GroupQueryAttention,
    SkipLayerNormalization,
    TransposedMatMul,
)
from edgeseq.runtime.onnx_runtime import Session, open_session

INT32, INT64, FLOAT = onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT


class Applied(torch.nn.Module):
    """An operator with its settings, to be exported alone."""

    def __init__(self, operator: type[torch.autograd.Function], *settings: Any) -> None:
        super().__init__()
        self.operator = operator
        self.settings = settings

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.operator.apply(*tensors, *self.settings)


def session_of(
    module: Applied, tensors: Sequence[torch.Tensor], outputs: Sequence[str], path: Path
) -> tuple[Session, list[str]]:
    """A session over what ``symbolic`` emits, and the names of its inputs."""
    names = [f"input_{i}" for i in range(len(tensors))]
    torch.onnx.export(
        module,
        tuple(tensors),
        str(path),
        input_names=names,
        output_names=list(outputs),
        dynamo=False,
        opset_version=18,
    )
    return open_session(path, "cpu", 1), names


def normal(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


SIMPLE_OPERATORS: dict[str, tuple[Applied, list[torch.Tensor]]] = {
    "skip_layer_normalization": (
        Applied(SkipLayerNormalization, None, 1e-3),
        [normal(0, 5, 12), normal(1, 5, 12), normal(2, 12), normal(3, 12)],
    ),
    "skip_layer_normalization_with_bias": (
        Applied(SkipLayerNormalization, 1e-3),
        [normal(0, 5, 12), normal(1, 5, 12), normal(2, 12), normal(3, 12), normal(4, 12)],
    ),
    "fast_gelu": (Applied(FastGelu), [3 * normal(0, 5, 12), normal(1, 12)]),
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
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_attention_computes_what_its_torch_form_does(
    n: int, filled: list[int], tmp_path: Path
) -> None:
    """In place: the node writes the new keys and values into the memory of the old ones."""
    rows = len(filled)
    tensors = [
        normal(0, rows, n, 3 * HEADS * HEAD_SIZE),
        normal(1, rows, HEADS, CAPACITY, HEAD_SIZE),
        normal(2, rows, HEADS, CAPACITY, HEAD_SIZE),
        torch.tensor(filled, dtype=torch.int32) - 1,
        torch.tensor(max(filled), dtype=torch.int32),
    ]
    module = Applied(GroupQueryAttention, HEADS, SCALE)
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
    session: Session, names: list[str], arrays: list[np.ndarray[Any, Any]], outputs: list[str]
) -> list[np.ndarray[Any, Any]]:
    """Attended (rows, n, features) and the cache, whose presents are bound to its pasts."""
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
