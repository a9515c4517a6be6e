"""The layers of BART, which mBART, Marian, M2M100 and Pegasus share.

The families differ in the order of norms and in their positions. The weights say which of them have
a norm after the embedding or the last layer, or a bias of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...runtime.bundle.manifest import Dimensions, Kind
from ..blocks.decoder import decoder_graph
from ..blocks.encoder import CROSS, encoder_graph
from ..blocks.options import Attention, Names, Stack, Weights, decoder_names, encoder_names
from ..blocks.weights import attention_weights, head_weights, linear_weights, norm_weights
from ..graphs.tracing import Graph
from .settings import check_activation, check_divisible, check_sizes, sizes_of

LEARNED_OFFSET = 2  # rows of BART's table of positions before position 0
SIZES = (
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "max_position_embeddings",
    "vocab_size",
)


def learned_positions(embedding: Any, config: Any) -> torch.Tensor:
    """Return the learned positions of BART and mBART, (positions, features)."""
    table: torch.Tensor = embedding.weight[LEARNED_OFFSET:]
    return table


def sinusoidal_positions(embedding: Any, config: Any) -> torch.Tensor:
    """Return the sinusoids of Marian and Pegasus, (positions, features)."""
    table: torch.Tensor = embedding.weight
    return table


@dataclass(frozen=True, kw_only=True)
class EncoderDecoder:
    """A family with BART's layers; see the protocol ``Family``."""

    MODEL_CLASSES: dict[str, Any]
    ARCHITECTURES: frozenset[str]
    norm_first: bool
    positions: Callable[[Any, Any], torch.Tensor]
    KIND: Kind = "encoder-decoder"

    def check(self, config: Any) -> None:
        """Raise ``CheckpointError`` for settings that the layers cannot compute with."""
        check_sizes(config, SIZES)
        check_activation(config.activation_function)
        for side in ("encoder", "decoder"):
            check_divisible(config, "d_model", f"{side}_attention_heads")

    def dimensions(self, config: Any) -> Dimensions:
        """Return the sizes that the runtime needs to allocate memory."""
        vocabulary = getattr(config, "decoder_vocab_size", None) or config.vocab_size
        sizes = sizes_of(
            features=config.d_model,
            heads=config.decoder_attention_heads,
            layers=config.decoder_layers,
            vocabulary=vocabulary,
            positions=config.max_position_embeddings,
        )
        if vocabulary == config.vocab_size:
            return sizes
        return sizes._replace(source_vocabulary=config.vocab_size)

    def graphs(self, model: Any) -> list[Graph]:
        """Return encoder and decoder of ``model``."""
        config, sizes = model.config, self.dimensions(model.config)
        encoder, decoder = (
            self._stack(config, encoder_names(), "encoder"),
            self._stack(config, decoder_names(), "decoder"),
        )
        decoder = replace(decoder, cross=decoder.attentions[0])
        tables = [side.embed_tokens.weight for side in (model.model.encoder, model.model.decoder)]
        if tables[0].data_ptr() != tables[1].data_ptr():
            encoder = replace(encoder, names=replace(encoder.names, table="encoder.embedding"))
            decoder = replace(decoder, names=replace(decoder.names, table="decoder.embedding"))
        return [
            encoder_graph(config, encoder, self._encoder_weights(model, encoder.names), sizes),
            decoder_graph(
                config, decoder, self._decoder_weights(model, decoder.names, sizes), sizes
            ),
        ]

    def _stack(self, config: Any, names: Names, side: str) -> Stack:
        heads = getattr(config, f"{side}_attention_heads")
        head_size = config.d_model // heads
        attention = Attention(heads=heads, head_size=head_size, scale=head_size**-0.5)
        return Stack(
            names=names,
            attentions=[attention] * getattr(config, f"{side}_layers"),
            norm_first=self.norm_first,
            activation=config.activation_function,
            embedding_scale=config.d_model**0.5 if config.scale_embedding else 1.0,
        )

    def _outer_weights(self, side: Any, config: Any, names: Names) -> Weights:
        """Return the weights of the embedding, the positions and the norms outside the layers."""
        weights = {
            names.table: side.embed_tokens.weight,
            names.positions: self.positions(side.embed_positions, config),
        }
        for name, norm in (
            (names.embedding_norm, "layernorm_embedding"),
            (names.norm, "layer_norm"),
        ):
            if (layer := getattr(side, norm, None)) is not None:
                weights |= norm_weights(name, layer)
        return weights

    def _encoder_weights(self, model: Any, names: Names) -> Weights:
        encoder = model.model.encoder
        weights = self._outer_weights(encoder, model.config, names)
        for i, layer in enumerate(encoder.layers):
            attention = layer.self_attn
            weights |= norm_weights(names.attention_norm.format(i), layer.self_attn_layer_norm)
            weights |= linear_weights(names.query.format(i), attention.q_proj)
            weights |= linear_weights(names.key.format(i), attention.k_proj)
            weights |= linear_weights(names.value.format(i), attention.v_proj)
            weights |= linear_weights(names.output.format(i), attention.out_proj)
            weights |= feed_forward_weights(names, i, layer)
        for i, layer in enumerate(model.model.decoder.layers):
            weights |= linear_weights(CROSS.format(i, "key"), layer.encoder_attn.k_proj)
            weights |= linear_weights(CROSS.format(i, "value"), layer.encoder_attn.v_proj)
        return weights

    def _decoder_weights(self, model: Any, names: Names, sizes: Dimensions) -> Weights:
        decoder = model.model.decoder
        weights = self._outer_weights(decoder, model.config, names)
        weights |= head_weights(names, model.lm_head, weights[names.table])
        bias = getattr(model, "final_logits_bias", None)
        if bias is not None and bool(bias.any()):
            weights[names.logits_bias] = bias.flatten()
        for i, layer in enumerate(decoder.layers):
            attention, cross = layer.self_attn, layer.encoder_attn
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            weights |= norm_weights(names.attention_norm.format(i), layer.self_attn_layer_norm)
            weights |= attention_weights(names, i, projections, attention.out_proj, sizes.head_size)
            weights |= norm_weights(names.cross_norm.format(i), layer.encoder_attn_layer_norm)
            weights |= linear_weights(names.cross_query.format(i), cross.q_proj)
            weights |= linear_weights(names.cross_output.format(i), cross.out_proj)
            weights |= feed_forward_weights(names, i, layer)
        return weights


def feed_forward_weights(names: Names, number: int, layer: Any) -> Weights:
    """Return the weights of a layer's feed-forward part and of its norm."""
    return {
        **norm_weights(names.ff_norm.format(number), layer.final_layer_norm),
        **linear_weights(names.ff_input.format(number), layer.fc1),
        **linear_weights(names.ff_output.format(number), layer.fc2),
    }
