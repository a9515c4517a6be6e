"""Operators of the exported graphs that torch has no name for.

Each is a ``torch.autograd.Function`` with two faces: ``symbolic`` emits one ONNX Runtime node,
``forward`` says in torch what the node computes, so that tracing sees the right shapes and a test
can compare the two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import gelu, layer_norm


def absent_input(g: Any) -> Any:
    """An optional input that is left empty."""
    constant = g.op("prim::Constant")
    constant.setType(torch._C.OptionalType.ofTensor())
    return constant


class GroupQueryAttention(torch.autograd.Function):
    """Causal self-attention that appends to the cache at each row's own position.

    ``qkv``: (rows, n, 3 * heads * head_size); ``past_key`` and ``past_value``: (rows, heads,
    capacity, head_size); ``seqlens_k``: (rows,) int32, the filled length after this step minus
    one; ``total_sequence_length``: int32 scalar, the longest row. A row that has fewer than ``n``
    new tokens is padded on the right, which is only possible where the cache is empty.

    Returns the attention's output (rows, n, heads * head_size) and the cache after the step.
    """

    @staticmethod
    def symbolic(
        g: Any,
        qkv: Any,
        past_key: Any,
        past_value: Any,
        seqlens_k: Any,
        total_sequence_length: Any,
        heads: int,
        scale: float,
    ) -> Any:
        outputs = g.op(
            "com.microsoft::GroupQueryAttention",
            qkv,
            absent_input(g),
            absent_input(g),
            past_key,
            past_value,
            seqlens_k,
            total_sequence_length,
            num_heads_i=heads,
            kv_num_heads_i=heads,
            scale_f=scale,
            outputs=3,
        )
        outputs[0].setType(qkv.type().with_sizes([None, None, None]))
        for output, past in zip(outputs[1:], (past_key, past_value), strict=True):
            output.setType(past.type())
        return outputs

    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        past_key: torch.Tensor,
        past_value: torch.Tensor,
        seqlens_k: torch.Tensor,
        total_sequence_length: torch.Tensor,
        heads: int,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, n, _ = qkv.shape
        query, key, value = qkv.view(rows, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
        present_key, present_value = past_key.clone(), past_value.clone()
        output = torch.zeros_like(query)
        for row in range(rows):
            filled = int(seqlens_k[row]) + 1
            first = 0 if n > 1 and filled <= n else filled - n
            new = filled - first
            present_key[row, :, first:filled] = key[row, :, :new]
            present_value[row, :, first:filled] = value[row, :, :new]
            scores = query[row, :, :new] @ present_key[row, :, :filled].transpose(-1, -2) * scale
            visible = torch.ones(new, filled, dtype=torch.bool).tril(first)
            probabilities = scores.masked_fill(~visible, -torch.inf).softmax(-1)
            output[row, :, :new] = probabilities @ present_value[row, :, :filled]
        return output.transpose(1, 2).reshape(rows, n, -1), present_key, present_value


class SkipLayerNormalization(torch.autograd.Function):
    """``LayerNorm(hidden + skip + skip_bias)`` and the sum itself, as one node.

    ``hidden`` and ``skip``: (rows, features); ``weight``, ``bias`` and ``skip_bias``: (features,),
    the last may be None.
    """

    @staticmethod
    def symbolic(
        g: Any, hidden: Any, skip: Any, weight: Any, bias: Any, skip_bias: Any, epsilon: float
    ) -> Any:
        outputs = g.op(
            "com.microsoft::SkipLayerNormalization",
            hidden,
            skip,
            weight,
            bias,
            *([] if skip_bias is None or skip_bias.node().mustBeNone() else [skip_bias]),
            epsilon_f=epsilon,
            outputs=4,
        )
        normalized, total = outputs[0], outputs[3]
        return normalized.setType(hidden.type()), total.setType(hidden.type())

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        skip: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        skip_bias: torch.Tensor | None,
        epsilon: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden + skip if skip_bias is None else hidden + skip + skip_bias
        return layer_norm(total, weight.shape, weight, bias, epsilon), total


class FastGelu(torch.autograd.Function):
    """The tanh form of GELU (``gelu_new``) of ``hidden + bias``, as one node."""

    @staticmethod
    def symbolic(g: Any, hidden: Any, bias: Any) -> Any:
        return g.op("com.microsoft::FastGelu", hidden, bias).setType(hidden.type())

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return gelu(hidden + bias, approximate="tanh")


class TransposedMatMul(torch.autograd.Function):
    """``hidden @ table.T`` as one Gemm, so that an embedding table also serves as the lm_head.

    ``hidden``: (rows, features); ``table``: (vocabulary, features). torch's own exporter would
    put a Transpose of the table into the graph.
    """

    @staticmethod
    def symbolic(g: Any, hidden: Any, table: Any) -> Any:
        return g.op("Gemm", hidden, table, transB_i=1).setType(
            hidden.type().with_sizes([None, None])
        )

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return hidden @ table.T
