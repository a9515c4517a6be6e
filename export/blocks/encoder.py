"""Encoders as graphs: from token ids to the keys and values of every cross-attention.

The hidden states are not an output. The graph computes from them the keys and values that each
decoder layer needs, once per source. Sources are padded on the right.
"""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from ...runtime.bundle.graph_contract import PARTS, encoder_inputs, encoder_outputs
from ...runtime.bundle.manifest import Dimensions
from ..graphs.attention import BLOCKED_SELF_ATTENTION, BlockedSelfAttention, MultiHeadAttention
from ..graphs.tracing import Graph
from .layers import Layers, Residual
from .options import Stack, Weights

CROSS = "decoder.{}.cross.{}"  # names of the layers for the decoder's keys and values


def encoder_graph(
    config: PretrainedConfig, stack: Stack, weights: Weights, sizes: Dimensions
) -> Graph:
    """Return the graph of an encoder and of the decoder's layers for keys and values."""
    example = {
        "input_ids": torch.zeros(2, 3, dtype=torch.int64),
        "source_lengths": torch.tensor([3, 2], dtype=torch.int32),
    }
    return Graph(
        role="encoder",
        file_name="encoder.onnx",
        module=Encoder(config, stack, weights, sizes),
        config=config,
        inputs=encoder_inputs(),
        outputs=encoder_outputs(sizes),
        example=example,
        weights=weights,
        functions=(BLOCKED_SELF_ATTENTION,) if stack.names.bias_table in weights else (),
    )


class Encoder(Layers):
    """An encoder, and the layers for the keys and values of the decoder's cross-attention."""

    def __init__(
        self, config: PretrainedConfig, stack: Stack, weights: Weights, sizes: Dimensions
    ) -> None:
        super().__init__(config, stack, weights)
        self._sizes = sizes

    def forward(
        self,
        input_ids: torch.Tensor,
        source_lengths: torch.Tensor,
        weights: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Return the keys and values of each decoder layer; shapes as in the graph contract."""
        self.receive(weights)
        names, shape = self.names, input_ids.shape
        residual = Residual(self, self.embed(input_ids, self._positions(input_ids)))
        for layer, options in enumerate(self.stack.attentions):
            normed = residual.read(names.attention_norm.format(layer))
            # Separate products, unlike in a decoder: splitting one product would copy all of it.
            projections = (
                self.linear(normed, name.format(layer)).view(*shape, -1)
                for name in (names.query, names.key, names.value)
            )
            table = self.find(names.bias_table)
            if table is None:
                attended = MultiHeadAttention.apply(
                    *projections, source_lengths, options.heads, options.scale
                )
            else:
                attended = BlockedSelfAttention.apply(
                    *projections, table, source_lengths, options.heads
                )
            attended = attended.view(-1, options.heads * options.head_size)
            added = self.linear(attended, names.output.format(layer))
            residual.write(added, names.attention_norm.format(layer))
            normed = residual.read(names.ff_norm.format(layer))
            added = self.feed_forward(normed, layer)
            residual.write(added, names.ff_norm.format(layer))
        hidden = self.finish(residual)
        return tuple(
            self._by_head(self.linear(hidden, CROSS.format(layer, part)), shape)
            for layer in range(self._sizes.layers)
            for part in PARTS
        )

    def _positions(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """Return the position of each token, (batch, source); None without a table of positions."""
        if self.find(self.names.positions) is None:
            return None
        return torch.arange(input_ids.shape[1]).expand(input_ids.shape)

    def _by_head(self, states: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Reshape (batch * source, heads * head_size) to (batch, heads, source, head_size)."""
        return states.view(*shape, self._sizes.heads, -1).transpose(1, 2)
