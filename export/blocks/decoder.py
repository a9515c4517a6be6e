"""Decoders as graphs: in-place KV cache, cross-attention to an encoder output, logits where asked.

The contract of the graph is ``docs/how-it-works/graph.md``. After the last attention, everything is
computed only at ``logits_at``.
"""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from ...runtime.bundle.graph_contract import decoder_inputs, decoder_outputs
from ...runtime.bundle.manifest import Dimensions
from ..graphs.attention import GroupQueryAttention, MultiHeadAttention
from ..graphs.operators import TransposedMatMul
from ..graphs.rotary import rotate
from ..graphs.tracing import Graph, decoder_example
from .layers import Layers, Residual
from .options import Stack, Weights

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def decoder_graph(
    config: PretrainedConfig, stack: Stack, weights: Weights, sizes: Dimensions
) -> Graph:
    """Return the graph of a decoder: a decoder-only model's, or one after an encoder."""
    after_encoder = stack.cross is not None
    module = DecoderAfterEncoder if after_encoder else Decoder
    example = decoder_example(sizes)
    if after_encoder:  # a source of five tokens for each row
        cross = (2, sizes.heads, 5, sizes.head_size)
        example["source_lengths"] = torch.tensor([5, 4], dtype=torch.int32)
        example["cross"] = [torch.zeros(cross) for _ in range(2 * sizes.layers)]
    return Graph(
        role="decoder",
        file_name="decoder.onnx",
        module=module(config, stack, weights, sizes),
        config=config,
        inputs=decoder_inputs(sizes, after_encoder=after_encoder),
        outputs=decoder_outputs(sizes),
        example=example,
        weights=weights,
    )


class _Decoder(Layers):
    def __init__(
        self, config: PretrainedConfig, stack: Stack, weights: Weights, sizes: Dimensions
    ) -> None:
        super().__init__(config, stack, weights)
        self._sizes = sizes

    def decode(
        self,
        inputs: Inputs,
        past_key_values: list[torch.Tensor],
        source_lengths: torch.Tensor | None = None,
        cross: list[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the logits and the KV cache after the step; shapes as in the graph contract."""
        input_ids, position_ids, seqlens_k, total_sequence_length, logits_at = inputs
        names, last = self.names, self._sizes.layers - 1
        bias = self._relative_bias(position_ids, total_sequence_length)
        self._shape = input_ids.shape
        residual = Residual(self, self.embed(input_ids, position_ids))
        presents: list[torch.Tensor] = []
        for layer in range(self._sizes.layers):
            normed = residual.read(names.attention_norm.format(layer))
            attended, *present = self._attend(
                normed,
                layer,
                position_ids,
                past_key_values[2 * layer : 2 * layer + 2],
                (seqlens_k, total_sequence_length, bias),
            )
            presents += present
            output = names.output
            if cross is not None and source_lengths is not None:
                added = self.linear(attended, output.format(layer))
                residual.write(added, names.attention_norm.format(layer))
                normed = residual.read(names.cross_norm.format(layer))
                parts = cross[2 * layer : 2 * layer + 2]
                attended = self._attend_to_source(normed, layer, parts, source_lengths)
                output = names.cross_output
            if layer == last:
                residual.select(logits_at)
                attended = attended.index_select(0, logits_at)
                normed = normed.index_select(0, logits_at)
            added = self.linear(attended, output.format(layer))
            if self.stack.is_parallel:
                if self._has_layer(ff_norm := names.ff_norm.format(layer)):
                    normed = residual.read_again(ff_norm)
                added = added + self.feed_forward(normed, layer)
            else:
                norm = names.attention_norm if cross is None else names.cross_norm
                residual.write(added, norm.format(layer))
                normed = residual.read(names.ff_norm.format(layer))
                added = self.feed_forward(normed, layer)
            residual.write(added, names.ff_norm.format(layer))
        return self._logits(self.finish(residual)), *presents

    def _attend(
        self,
        normed: torch.Tensor,
        layer: int,
        position_ids: torch.Tensor,
        past: list[torch.Tensor],
        lengths_and_bias: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    ) -> tuple[torch.Tensor, ...]:
        """Return the output of self-attention, (rows * n, features), and the layer's KV cache."""
        options, sizes = self.stack.attentions[layer], self._sizes
        cos, sin = self.find(self.names.cos), self.find(self.names.sin)
        qkv = self.linear(normed, self.names.qkv.format(layer)).view(*self._shape, -1)
        rotary: tuple[torch.Tensor, ...] | None = None
        if cos is not None and sin is not None:
            if cos.ndim == 2:
                rotary = cos, sin, position_ids
            else:
                qkv = rotate(qkv, options.heads, cos[position_ids], sin[position_ids])
        attended, *present = GroupQueryAttention.apply(
            qkv,
            *past,
            *lengths_and_bias,
            options.heads,
            options.scale,
            options.window,
            *(rotary or (None, None, None)),
        )
        return attended.view(-1, options.heads * sizes.stored_head_size), *present

    def _attend_to_source(
        self,
        normed: torch.Tensor,
        layer: int,
        parts: list[torch.Tensor],
        source_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """Return the output of cross-attention, (rows * n, features)."""
        options = self.stack.cross
        assert options is not None  # `decode` has a source
        inner = options.heads * options.head_size
        queries = self.linear(normed, self.names.cross_query.format(layer))
        queries = queries.view(source_lengths.shape[0], -1, inner)
        attended: torch.Tensor = MultiHeadAttention.apply(
            queries, *parts, source_lengths, options.heads, options.scale
        )
        return attended.view(-1, inner)

    def _relative_bias(
        self, position_ids: torch.Tensor, total_sequence_length: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the bias of each key by its distance behind the query, for all layers.

        The shape is (rows, heads, n, total_sequence_length).
        """
        table = self.find(self.names.bias_table)
        if table is None:
            return None
        keys = torch.arange(total_sequence_length)  # type: ignore[call-overload]  # traced
        distances = (position_ids.unsqueeze(2) - keys).clamp(0, table.shape[1] - 1)
        return table[:, distances].transpose(0, 1)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._has_layer(self.names.output_projection):
            hidden = self.linear(hidden, self.names.output_projection)
        table = self.find(self.names.lm_head)
        if table is None:
            table = self._weights[self.names.table]
        logits: torch.Tensor = TransposedMatMul.apply(hidden, table)
        bias = self.find(self.names.logits_bias)
        return logits if bias is None else logits + bias


class Decoder(_Decoder):
    """The decoder of a decoder-only model."""

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        seqlens_k: torch.Tensor,
        total_sequence_length: torch.Tensor,
        logits_at: torch.Tensor,
        past_key_values: list[torch.Tensor],
        weights: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Return the logits and the KV cache after the step; shapes as in the graph contract."""
        self.receive(weights)
        inputs = (input_ids, position_ids, seqlens_k, total_sequence_length, logits_at)
        return self.decode(inputs, past_key_values)


class DecoderAfterEncoder(_Decoder):
    """The decoder of an encoder-decoder model; it reads the keys and values of the source."""

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
        inputs = (input_ids, position_ids, seqlens_k, total_sequence_length, logits_at)
        return self.decode(inputs, past_key_values, source_lengths, cross)
