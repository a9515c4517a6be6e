"""The GPT-J family."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPTJForCausalLM

from ...runtime.bundle.manifest import Dimensions, Kind
from ...runtime.errors import CheckpointError
from ..blocks.decoder import decoder_graph
from ..blocks.options import Stack, Weights, decoder_names, usual_attentions
from ..blocks.weights import (
    attention_weights,
    head_weights,
    linear_weights,
    norm_weights,
    rotary_weights,
)
from ..graphs.tracing import Graph
from .settings import check_activation, check_divisible, check_number, check_sizes, sizes_of

KIND: Kind = "decoder-only"
MODEL_CLASSES = {"gptj": GPTJForCausalLM}
ARCHITECTURES = frozenset({"GPTJForCausalLM"})
NAMES = decoder_names()


def check(config: Any) -> None:
    """Raise ``CheckpointError`` for settings that the layers cannot compute with."""
    names = ("n_embd", "n_head", "n_layer", "n_positions", "rotary_dim", "vocab_size")
    check_sizes(config, names if config.n_inner is None else (*names, "n_inner"))
    check_divisible(config, "n_embd", "n_head")
    check_number(config, "layer_norm_epsilon")
    check_activation(config.activation_function)
    head_size = config.n_embd // config.n_head
    if config.rotary_dim % 2 or config.rotary_dim > head_size:
        raise CheckpointError(
            f"The configuration's rotary_dim is {config.rotary_dim}; it must be an even number up "
            f"to the head size (n_embd / n_head = {head_size})."
        )


def dimensions(config: Any) -> Dimensions:
    """Return the sizes that the runtime needs to allocate memory."""
    return sizes_of(
        features=config.n_embd,
        heads=config.n_head,
        layers=config.n_layer,
        vocabulary=config.vocab_size,
        positions=config.n_positions,
    )


def graphs(model: Any) -> list[Graph]:
    """Return the decoder of ``model`` with its weights."""
    config, sizes = model.config, dimensions(model.config)
    stack = Stack(
        names=NAMES,
        attentions=usual_attentions(sizes),
        epsilon=config.layer_norm_epsilon,
        is_parallel=True,
        activation=config.activation_function,
    )
    return [decoder_graph(config, stack, _weights(model, sizes), sizes)]


def _weights(model: Any, sizes: Dimensions) -> Weights:
    decoder, rotated = model.transformer, model.config.rotary_dim
    frequencies = 1.0 / 10000 ** (torch.arange(0, rotated, 2) / rotated)
    weights = {
        NAMES.table: decoder.wte.weight,
        **rotary_weights(NAMES, frequencies, 1.0, sizes),
        **norm_weights(NAMES.norm, decoder.ln_f),
        **head_weights(NAMES, model.lm_head, decoder.wte.weight),
    }
    for i, layer in enumerate(decoder.h):
        attention = layer.attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights |= norm_weights(NAMES.attention_norm.format(i), layer.ln_1)
        weights |= attention_weights(
            NAMES, i, projections, attention.out_proj, sizes.head_size, interleaved=rotated
        )
        weights |= linear_weights(NAMES.ff_input.format(i), layer.mlp.fc_in)
        weights |= linear_weights(NAMES.ff_output.format(i), layer.mlp.fc_out)
    return weights
