"""The GPT-Neo family: every other layer reads a window of the last tokens only."""

from __future__ import annotations

from typing import Any

from transformers import GPTNeoForCausalLM

from ...runtime.bundle.manifest import Dimensions, Kind
from ..blocks.decoder import decoder_graph
from ..blocks.options import Attention, Stack, Weights, decoder_names
from ..blocks.weights import attention_weights, head_weights, linear_weights, norm_weights
from ..graphs.tracing import Graph
from .settings import check_activation, check_divisible, check_number, check_sizes, sizes_of

KIND: Kind = "decoder-only"
MODEL_CLASSES = {"gpt_neo": GPTNeoForCausalLM}
ARCHITECTURES = frozenset({"GPTNeoForCausalLM", "GPTNeoModel"})
NAMES = decoder_names()


def check(config: Any) -> None:
    """Raise ``CheckpointError`` for settings that the layers cannot compute with."""
    names = ("hidden_size", "num_layers", "num_heads", "max_position_embeddings", "vocab_size")
    check_sizes(config, (*names, "window_size"))
    check_divisible(config, "hidden_size", "num_heads")
    check_number(config, "layer_norm_epsilon")
    check_activation(config.activation_function)


def dimensions(config: Any) -> Dimensions:
    """Return the sizes that the runtime needs to allocate memory."""
    return sizes_of(
        features=config.hidden_size,
        heads=config.num_heads,
        layers=config.num_layers,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
    )


def graphs(model: Any) -> list[Graph]:
    """Return the decoder of ``model`` with its weights."""
    config, sizes = model.config, dimensions(model.config)
    stack = Stack(
        names=NAMES,
        attentions=[
            Attention(
                heads=sizes.heads,
                head_size=sizes.head_size,
                scale=1.0,  # GPT-Neo does not scale its scores
                window=config.window_size if kind == "local" else None,
            )
            for kind in config.attention_layers
        ],
        epsilon=config.layer_norm_epsilon,
        activation=config.activation_function,
    )
    return [decoder_graph(config, stack, _weights(model, sizes), sizes)]


def _weights(model: Any, sizes: Dimensions) -> Weights:
    decoder = model.transformer
    weights = {
        NAMES.table: decoder.wte.weight,
        NAMES.positions: decoder.wpe.weight,
        **norm_weights(NAMES.norm, decoder.ln_f),
        **head_weights(NAMES, model.lm_head, decoder.wte.weight),
    }
    for i, layer in enumerate(decoder.h):
        attention = layer.attn.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights |= norm_weights(NAMES.attention_norm.format(i), layer.ln_1)
        weights |= attention_weights(NAMES, i, projections, attention.out_proj, sizes.head_size)
        weights |= norm_weights(NAMES.ff_norm.format(i), layer.ln_2)
        weights |= linear_weights(NAMES.ff_input.format(i), layer.mlp.c_fc)
        weights |= linear_weights(NAMES.ff_output.format(i), layer.mlp.c_proj)
    return weights
