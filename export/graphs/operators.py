"""Operators of the exported graphs that torch lacks.

Each is a ``torch.autograd.Function`` with two methods. ``symbolic`` emits one ONNX Runtime node.
``forward`` computes the same in torch, so that tracing sees the right shapes and a test can compare
the two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import gelu, rms_norm


def is_absent(value: Any) -> bool:
    """Return whether an optional input was given as None."""
    return value is None or bool(value.node().mustBeNone())


def add_and_norm_node(g: Any, operator: str, inputs: list[Any], epsilon: float) -> Any:
    """Emit a node that normalizes the sum of its first two inputs; return ``(norm, sum)``."""
    normalized, _, _, total = g.op(operator, *inputs, epsilon_f=epsilon, outputs=4)
    return normalized.setType(inputs[0].type()), total.setType(inputs[0].type())


class SimplifiedLayerNormalization(torch.autograd.Function):
    """``RMSNorm(hidden) * weight`` as one node; ``hidden``: (rows, features).

    ONNX Runtime defines this operator in ONNX's default domain, although ONNX does not.
    """

    @staticmethod
    def symbolic(g: Any, hidden: Any, weight: Any, epsilon: float) -> Any:
        return g.op("SimplifiedLayerNormalization", hidden, weight, epsilon_f=epsilon).setType(
            hidden.type()
        )

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        return rms_norm(hidden, weight.shape, weight, epsilon)


class SkipSimplifiedLayerNormalization(torch.autograd.Function):
    """``RMSNorm(hidden + skip) * weight`` and the sum ``hidden + skip``, as one node.

    ``hidden`` and ``skip``: (rows, features); ``weight``: (features,).
    """

    @staticmethod
    def symbolic(g: Any, hidden: Any, skip: Any, weight: Any, epsilon: float) -> Any:
        operator = "com.microsoft::SkipSimplifiedLayerNormalization"
        return add_and_norm_node(g, operator, [hidden, skip, weight], epsilon)

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, skip: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden + skip
        return rms_norm(total, weight.shape, weight, epsilon), total


class FastGelu(torch.autograd.Function):
    """The tanh form of GELU (``gelu_new``) of ``hidden + bias``, as one node.

    ``hidden``: (rows, features); ``bias``: (features,) or None.
    """

    @staticmethod
    def symbolic(g: Any, hidden: Any, bias: Any) -> Any:
        inputs = [hidden] if is_absent(bias) else [hidden, bias]
        return g.op("com.microsoft::FastGelu", *inputs).setType(hidden.type())

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return gelu(hidden if bias is None else hidden + bias, approximate="tanh")


class TransposedMatMul(torch.autograd.Function):
    """``hidden @ table.T`` as one Gemm, so that an embedding table also serves as the lm_head.

    ``hidden``: (rows, features); ``table``: (vocabulary, features). torch's exporter would add a
    Transpose of the table to the graph.
    """

    @staticmethod
    def symbolic(g: Any, hidden: Any, table: Any) -> Any:
        return g.op("Gemm", hidden, table, transB_i=1).setType(
            hidden.type().with_sizes([None, None])
        )

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return hidden @ table.T
