"""The GPT-NeoX family: Pythia, Dolly, RedPajama."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPTNeoXForCausalLM

from ...runtime.bundle.manifest import Dimensions, Kind
from ...runtime.errors import CheckpointError
from ..blocks.decoder import decoder_graph
from ..blocks.options import Stack, Weights, decoder_names, usual_attentions
from ..blocks.weights import head_weights, linear_weights, norm_weights, rotary_weights
from ..graphs.attention import pad_heads
from ..graphs.tracing import Graph
from .settings import check_activation, check_divisible, check_number, check_sizes, sizes_of

KIND: Kind = "decoder-only"
MODEL_CLASSES = {"gpt_neox": GPTNeoXForCausalLM}
ARCHITECTURES = frozenset({"GPTNeoXForCausalLM"})
NAMES = decoder_names()
CHANGING_ROPE = ("dynamic", "longrope")  # their frequencies depend on the length of the text


def check(config: Any) -> None:
    """Raise ``CheckpointError`` for settings that the layers cannot compute with."""
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "vocab_size",
    )
    check_sizes(config, names)
    check_divisible(config, "hidden_size", "num_attention_heads")
    check_number(config, "layer_norm_eps")
    check_activation(config.hidden_act)
    scaling = config.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in CHANGING_ROPE:
        raise CheckpointError(
            f"The configuration's rope_scaling has the type {kind!r}, which depends on the length "
            "of the text and cannot be exported: use a checkpoint without it."
        )


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
        epsilon=config.layer_norm_eps,
        is_parallel=config.use_parallel_residual,
        activation=config.hidden_act,
    )
    return [decoder_graph(config, stack, _weights(model, sizes), sizes)]


def _weights(model: Any, sizes: Dimensions) -> Weights:
    decoder = model.gpt_neox
    rotary = decoder.rotary_emb
    weights = {
        NAMES.table: decoder.embed_in.weight,
        **rotary_weights(NAMES, rotary.inv_freq, rotary.attention_scaling, sizes),
        **norm_weights(NAMES.norm, decoder.final_layer_norm),
        **head_weights(NAMES, model.embed_out, decoder.embed_in.weight),
    }
    for i, layer in enumerate(decoder.layers):
        qkv, output = NAMES.qkv.format(i), NAMES.output.format(i)
        weights |= norm_weights(NAMES.attention_norm.format(i), layer.input_layernorm)
        weights |= linear_weights(qkv, layer.attention.query_key_value)
        weights |= linear_weights(output, layer.attention.dense)
        for part in [name for name in (f"{qkv}.weight", f"{qkv}.bias") if name in weights]:
            weights[part] = pad_heads(_by_part(weights[part], sizes), -1, sizes.head_size)
        weights[f"{output}.weight"] = pad_heads(weights[f"{output}.weight"], 0, sizes.head_size)
        weights |= norm_weights(NAMES.ff_norm.format(i), layer.post_attention_layernorm)
        weights |= linear_weights(NAMES.ff_input.format(i), layer.mlp.dense_h_to_4h)
        weights |= linear_weights(NAMES.ff_output.format(i), layer.mlp.dense_4h_to_h)
    return weights


def _by_part(packed: torch.Tensor, sizes: Dimensions) -> torch.Tensor:
    """Reorder the last axis from (heads, 3, head_size) to (3, heads, head_size)."""
    split: torch.Tensor = packed.unflatten(-1, (sizes.heads, 3, sizes.head_size))
    return split.transpose(-3, -2).flatten(-3)
