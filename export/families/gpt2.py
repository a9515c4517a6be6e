"""The GPT-2 family."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ...runtime.bundle.manifest import Dimensions, Kind
from ...runtime.errors import CheckpointError
from ..blocks.decoder import decoder_graph
from ..blocks.options import Attention, Names, Stack
from ..graphs.attention import pad_heads
from ..graphs.tracing import Graph
from .settings import check_activation, check_number, check_sizes, sizes_of

KIND: Kind = "decoder-only"
MODEL_CLASSES = {"gpt2": GPT2LMHeadModel}
# Old checkpoints without an lm_head are named GPT2Model; the embedding is their lm_head.
ARCHITECTURES = frozenset({"GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel"})
NAMES = Names(
    table="wte",
    positions="wpe",
    attention_norm="h.{}.ln_1",
    qkv="h.{}.attn.qkv",
    output="h.{}.attn.output",
    ff_norm="h.{}.ln_2",
    ff_input="h.{}.mlp.input",
    ff_output="h.{}.mlp.output",
    norm="ln_f",
)
BLOCK_WEIGHTS = {
    "ln_1": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.output": "attn.c_proj",
    "ln_2": "ln_2",
    "mlp.input": "mlp.c_fc",
    "mlp.output": "mlp.c_proj",
}


def check(config: GPT2Config) -> None:
    """Raise ``CheckpointError`` for settings that a stand-alone GPT-2 decoder cannot express."""
    if config.add_cross_attention:
        raise CheckpointError(
            "This GPT-2 has cross-attention to an encoder (add_cross_attention), which cannot be "
            "exported: use a GPT-2 without it."
        )
    check_sizes(config, ("n_embd", "n_head", "n_layer", "n_positions", "vocab_size"))
    check_number(config, "layer_norm_epsilon")
    check_activation(config.activation_function)
    if config.pruned_heads:
        raise CheckpointError(
            "This GPT-2 has pruned heads (pruned_heads), which cannot be exported: save the model "
            "without pruning."
        )


def dimensions(config: GPT2Config) -> Dimensions:
    """Return the sizes that the runtime needs to allocate memory."""
    return sizes_of(
        features=config.n_embd,
        heads=config.n_head,
        layers=config.n_layer,
        vocabulary=config.vocab_size,
        positions=config.n_positions,
    )


def graphs(model: GPT2LMHeadModel) -> list[Graph]:
    """Return the decoder of ``model`` with its weights."""
    config, sizes = model.config, dimensions(model.config)
    stack = Stack(
        names=NAMES,
        attentions=[
            Attention(
                heads=sizes.heads, head_size=sizes.head_size, scale=attention_scale(config, layer)
            )
            for layer in range(sizes.layers)
        ],
        epsilon=config.layer_norm_epsilon,
        activation=config.activation_function,
    )
    return [decoder_graph(config, stack, _weights(model, sizes), sizes)]


def attention_scale(config: GPT2Config, layer: int) -> float:
    """Return the factor of the scores of ``layer`` (``GPT2Attention`` in Transformers)."""
    scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


def _weights(model: GPT2LMHeadModel, sizes: Dimensions) -> dict[str, torch.Tensor]:
    """Return every weight once, linear weights as (input, output), heads padded with zeros."""
    state = model.state_dict()
    weights = {
        "wte": state["transformer.wte.weight"],
        "wpe": state["transformer.wpe.weight"],
        "ln_f.weight": state["transformer.ln_f.weight"],
        "ln_f.bias": state["transformer.ln_f.bias"],
    }
    for layer in range(sizes.layers):
        for ours, theirs in BLOCK_WEIGHTS.items():
            for part in ("weight", "bias"):
                tensor = state[f"transformer.h.{layer}.{theirs}.{part}"]
                weights[f"h.{layer}.{ours}.{part}"] = tensor
        qkv, output = f"h.{layer}.attn.qkv", f"h.{layer}.attn.output"
        for name, axis in ((f"{qkv}.weight", 1), (f"{qkv}.bias", 0), (f"{output}.weight", 0)):
            weights[name] = pad_heads(weights[name], axis, sizes.head_size)
    if state["lm_head.weight"].data_ptr() != weights["wte"].data_ptr():
        weights["lm_head"] = state["lm_head.weight"]
    return weights
