"""T5's encoder as a graph: from token ids to the keys and values of every cross-attention.

The hidden states are not an output. The graph computes from them the keys and values that each
decoder layer needs, once per source.
"""

from __future__ import annotations

from typing import Any

import torch

from ...runtime.bundle.graph_contract import PARTS, encoder_inputs, encoder_outputs
from ...runtime.bundle.manifest import Dimensions
from ..graphs.attention import BLOCKED_SELF_ATTENTION, BlockedSelfAttention
from ..graphs.tracing import Graph
from .t5_stack import T5Stack, Weights, bias_table, feed_forward_weights

# Separate products, not one as in a decoder: splitting one product would copy all of it.
PROJECTIONS = ("query", "key", "value")


def encoder_graph(model: Any, sizes: Dimensions) -> Graph:
    """Return the graph of the encoder of ``model``.

    Its outputs are the keys and values of the decoder's cross-attention.
    """
    weights = _weights(model)
    example = {
        "input_ids": torch.zeros(2, 3, dtype=torch.int64),
        "source_lengths": torch.tensor([3, 2], dtype=torch.int32),
    }
    return Graph(
        role="encoder",
        file_name="encoder.onnx",
        module=T5Encoder(model.config, weights),
        config=model.config,
        inputs=encoder_inputs(),
        outputs=encoder_outputs(sizes),
        example=example,
        weights=weights,
        functions=(BLOCKED_SELF_ATTENTION,),
    )


class T5Encoder(T5Stack):
    """T5's encoder with the projections to the keys and values of the decoder's cross-attention.

    Sources are padded on the right.
    """

    def forward(
        self,
        input_ids: torch.Tensor,
        source_lengths: torch.Tensor,
        weights: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Return the keys and values of each decoder layer; shapes as in the graph contract."""
        self.receive(weights)
        shape = input_ids.shape
        hidden, added = self._w["shared"][input_ids.view(-1)], None
        for layer in range(self.config.num_layers):
            block = f"encoder.{layer}"
            normed, hidden = self.add_and_norm(hidden, added, f"{block}.attention.norm")
            projections = (
                self.linear(normed, f"{block}.attention.{name}").view(*shape, -1)
                for name in PROJECTIONS
            )
            attended = BlockedSelfAttention.apply(
                *projections, self._w["encoder.bias_table"], source_lengths, self.config.num_heads
            )
            added = self.linear(attended.view(-1, self._inner), f"{block}.attention.output")
            normed, hidden = self.add_and_norm(hidden, added, f"{block}.ff.norm")
            added = self.feed_forward(normed, block)
        normed, _ = self.add_and_norm(hidden, added, "encoder.norm")
        return tuple(
            self._by_head(self.linear(normed, f"decoder.{layer}.cross.{part}"), shape)
            for layer in range(self.config.num_decoder_layers)
            for part in PARTS
        )

    @property
    def _inner(self) -> int:
        size: int = self.config.num_heads * self.config.d_kv
        return size

    def _by_head(self, states: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Reshape (batch * source, heads * head_size) to (batch, heads, source, head_size)."""
        return states.view(*shape, self.config.num_heads, -1).transpose(1, 2)


def _weights(model: Any) -> Weights:
    encoder, decoder = model.encoder, model.decoder
    first = encoder.block[0].layer[0].SelfAttention
    weights = {
        "shared": encoder.embed_tokens.weight,
        "encoder.bias_table": bias_table(first, bidirectional=True),
        "encoder.norm": encoder.final_layer_norm.weight,
    }
    for number, block in enumerate(encoder.block):
        name = f"encoder.{number}"
        attention = block.layer[0].SelfAttention
        weights[f"{name}.attention.norm"] = block.layer[0].layer_norm.weight
        linears = (attention.q, attention.k, attention.v)
        for projection, linear in zip(PROJECTIONS, linears, strict=True):
            weights[f"{name}.attention.{projection}"] = linear.weight.T
        weights[f"{name}.attention.output"] = attention.o.weight.T
        weights |= feed_forward_weights(block.layer[1], model.config, name)
    for number, block in enumerate(decoder.block):
        cross = block.layer[1].EncDecAttention
        weights[f"decoder.{number}.cross.key"] = cross.k.weight.T
        weights[f"decoder.{number}.cross.value"] = cross.v.weight.T
    return weights
