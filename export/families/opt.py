"""The OPT family."""

from __future__ import annotations

from typing import Any

from transformers import OPTForCausalLM

from ...runtime.bundle.manifest import Dimensions, Kind
from ..blocks.decoder import decoder_graph
from ..blocks.options import Stack, Weights, decoder_names, usual_attentions
from ..blocks.weights import attention_weights, head_weights, linear_weights, norm_weights
from ..graphs.tracing import Graph
from .fairseq import feed_forward_weights, learned_positions
from .settings import check_activation, check_divisible, check_sizes, sizes_of

KIND: Kind = "decoder-only"
MODEL_CLASSES = {"opt": OPTForCausalLM}
ARCHITECTURES = frozenset({"OPTForCausalLM", "OPTModel"})
NAMES = decoder_names()


def check(config: Any) -> None:
    """Raise ``CheckpointError`` for settings that the layers cannot compute with."""
    check_sizes(
        config,
        (
            "hidden_size",
            "word_embed_proj_dim",
            "ffn_dim",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "vocab_size",
        ),
    )
    check_divisible(config, "hidden_size", "num_attention_heads")
    check_activation(config.activation_function)


def dimensions(config: Any) -> Dimensions:
    """Return the sizes that the runtime needs to allocate memory."""
    return sizes_of(
        features=config.hidden_size,
        heads=config.num_attention_heads,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
    )


def graphs(model: Any) -> list[Graph]:
    """Return the decoder of ``model`` with its weights."""
    config, sizes = model.config, dimensions(model.config)
    stack = Stack(
        names=NAMES,
        attentions=usual_attentions(sizes),
        norm_first=config.do_layer_norm_before,
        activation=config.activation_function,
    )
    return [decoder_graph(config, stack, _weights(model, sizes), sizes)]


def _weights(model: Any, sizes: Dimensions) -> Weights:
    decoder = model.model.decoder
    weights = {
        NAMES.table: decoder.embed_tokens.weight,
        NAMES.positions: learned_positions(decoder.embed_positions, model.config),
    }
    for name, layer in (
        (NAMES.embedding_projection, decoder.project_in),
        (NAMES.output_projection, decoder.project_out),
    ):
        weights |= {} if layer is None else linear_weights(name, layer)
    if decoder.final_layer_norm is not None:
        weights |= norm_weights(NAMES.norm, decoder.final_layer_norm)
    weights |= head_weights(NAMES, model.lm_head, weights[NAMES.table])
    for i, layer in enumerate(decoder.layers):
        attention = layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights |= norm_weights(NAMES.attention_norm.format(i), layer.self_attn_layer_norm)
        weights |= attention_weights(NAMES, i, projections, attention.out_proj, sizes.head_size)
        weights |= feed_forward_weights(NAMES, i, layer)
    return weights
