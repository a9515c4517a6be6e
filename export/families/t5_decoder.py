"""T5's decoder as a graph: in-place KV cache, cross-attention to the encoder output."""

from __future__ import annotations

from typing import Any

import torch

from ...runtime.bundle.graph_contract import decoder_inputs, decoder_outputs
from ...runtime.bundle.manifest import Dimensions
from ..graphs.attention import CrossAttention, GroupQueryAttention, pad_heads
from ..graphs.operators import TransposedMatMul
from ..graphs.tracing import Graph, decoder_example
from .t5_stack import T5Stack, Weights, bias_table, feed_forward_weights


def decoder_graph(model: Any, sizes: Dimensions) -> Graph:
    """Return the graph of the decoder of ``model``.

    The keys and values of cross-attention are inputs, because the encoder's graph computes them.
    """
    weights = _weights(model, sizes)
    return Graph(
        role="decoder",
        file_name="decoder.onnx",
        module=T5Decoder(model.config, weights, sizes),
        config=model.config,
        inputs=decoder_inputs(sizes, after_encoder=True),
        outputs=decoder_outputs(sizes),
        example=_example(sizes),
        weights=weights,
    )


class T5Decoder(T5Stack):
    """T5's decoder with an in-place KV cache and logits only at ``logits_at``."""

    def __init__(self, config: Any, weights: Weights, sizes: Dimensions) -> None:
        super().__init__(config, weights)
        self._sizes = sizes

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        seqlens_k: torch.Tensor,
        total_sequence_length: torch.Tensor,
        logits_at: torch.Tensor,
        source_lengths: torch.Tensor,
        cross: list[torch.Tensor],
        past_key_values: list[torch.Tensor],
        weights: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Return the logits and the KV cache after the step; shapes as in the graph contract."""
        self.receive(weights)
        shape, heads, last = input_ids.shape, self._sizes.heads, self._sizes.layers - 1
        batch = source_lengths.shape[0]
        bias = self._bias(position_ids, total_sequence_length)
        hidden, added = self._w["shared"][input_ids.view(-1)], None
        presents: list[torch.Tensor] = []
        for layer in range(self._sizes.layers):
            block = f"decoder.{layer}"
            normed, hidden = self.add_and_norm(hidden, added, f"{block}.attention.norm")
            attended, *present = GroupQueryAttention.apply(
                self.linear(normed, f"{block}.attention.qkv").view(*shape, -1),
                *past_key_values[2 * layer : 2 * layer + 2],
                seqlens_k,
                total_sequence_length,
                bias,
                heads,
                1.0,
            )
            presents += present
            attended = attended.view(-1, heads * self._sizes.stored_head_size)
            added = self.linear(attended, f"{block}.attention.output")
            normed, hidden = self.add_and_norm(hidden, added, f"{block}.cross.norm")
            queries = self.linear(normed, f"{block}.cross.query").view(batch, -1, self._inner)
            attended = CrossAttention.apply(
                queries, *cross[2 * layer : 2 * layer + 2], source_lengths, heads
            ).view(-1, self._inner)
            if layer == last:
                hidden = hidden.index_select(0, logits_at)
                attended = attended.index_select(0, logits_at)
            added = self.linear(attended, f"{block}.cross.output")
            normed, hidden = self.add_and_norm(hidden, added, f"{block}.ff.norm")
            added = self.feed_forward(normed, block)
        normed, _ = self.add_and_norm(hidden, added, "decoder.norm")
        table = self._w["lm_head" if "lm_head" in self._w else "shared"]
        return TransposedMatMul.apply(normed, table), *presents

    @property
    def _inner(self) -> int:
        return self._sizes.heads * self._sizes.head_size

    def _bias(
        self, position_ids: torch.Tensor, total_sequence_length: torch.Tensor
    ) -> torch.Tensor:
        """Return the bias of each key by its distance behind the query.

        The shape is (rows, heads, n, total_sequence_length). It is computed once per step for all
        layers.
        """
        table = self._w["decoder.bias_table"]
        keys = torch.arange(total_sequence_length)  # type: ignore[call-overload]  # traced
        distances = (position_ids.unsqueeze(2) - keys).clamp(0, table.shape[1] - 1)
        return table[:, distances].transpose(0, 1)


def _weights(model: Any, sizes: Dimensions) -> Weights:
    """Return every weight once, linear weights as (input, output).

    The heads of self-attention are padded with zeros. A tied lm_head reads hidden states scaled by
    d_model ** -0.5; the weight of the last layer norm includes this factor.
    """
    config, decoder = model.config, model.decoder
    scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0
    first = decoder.block[0].layer[0].SelfAttention
    weights = {
        "shared": decoder.embed_tokens.weight,
        "decoder.bias_table": bias_table(first, bidirectional=False),
        "decoder.norm": decoder.final_layer_norm.weight * scale,
    }
    if model.lm_head.weight.data_ptr() != weights["shared"].data_ptr():
        weights["lm_head"] = model.lm_head.weight
    for number, block in enumerate(decoder.block):
        name = f"decoder.{number}"
        attention, cross = block.layer[0].SelfAttention, block.layer[1].EncDecAttention
        qkv = [projection.weight.T for projection in (attention.q, attention.k, attention.v)]
        packed, output = torch.cat(qkv, dim=1), attention.o.weight.T
        weights[f"{name}.attention.norm"] = block.layer[0].layer_norm.weight
        weights[f"{name}.attention.qkv"] = pad_heads(packed, 1, sizes.head_size)
        weights[f"{name}.attention.output"] = pad_heads(output, 0, sizes.head_size)
        weights[f"{name}.cross.norm"] = block.layer[1].layer_norm.weight
        weights[f"{name}.cross.query"] = cross.q.weight.T
        weights[f"{name}.cross.output"] = cross.o.weight.T
        weights |= feed_forward_weights(block.layer[2], config, name)
    return weights


def _example(sizes: Dimensions) -> dict[str, object]:
    """Return ``decoder_example`` and a source of five tokens for each row, as tracing arguments."""
    cross = (2, sizes.heads, 5, sizes.head_size)
    return {
        **decoder_example(sizes),
        "source_lengths": torch.tensor([5, 4], dtype=torch.int32),
        "cross": [torch.zeros(cross) for _ in range(2 * sizes.layers)],
    }
