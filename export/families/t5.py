"""The T5 family: T5, T5 v1.1, Flan-T5, T0, mT5 and ByT5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import MT5ForConditionalGeneration, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from ...runtime.bundle.manifest import Dimensions, Kind
from ...runtime.errors import CheckpointError
from ..blocks.decoder import decoder_graph
from ..blocks.encoder import encoder_graph
from ..blocks.options import Attention, Names, Stack, Weights, decoder_names, encoder_names
from ..graphs.attention import pad_heads, padded_head_size
from ..graphs.tracing import Graph
from .settings import check_activation, check_number, check_sizes

KIND: Kind = "encoder-decoder"
MODEL_CLASSES = {"t5": T5ForConditionalGeneration, "mt5": MT5ForConditionalGeneration}
# T5WithLMHeadModel is an old name. A bare T5Model has all weights if the lm_head is tied.
ARCHITECTURES = frozenset(
    {
        "T5ForConditionalGeneration",
        "T5WithLMHeadModel",
        "T5Model",
        "MT5ForConditionalGeneration",
        "MT5Model",
    }
)
FARTHEST = 1_000_000  # highest distance, because bias tables have an entry for each distance
SIZES = (
    "d_model",
    "d_kv",
    "d_ff",
    "num_heads",
    "num_layers",
    "num_decoder_layers",
    "vocab_size",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)


def check(config: Any) -> None:
    """Raise ``CheckpointError`` for settings that T5 does not have or cannot compute with."""
    check_sizes(config, SIZES)
    check_number(config, "layer_norm_epsilon")
    check_activation(config.dense_act_fn)
    buckets, distance = (
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
    )
    if buckets < 4 or not buckets // 2 < distance <= FARTHEST:
        raise CheckpointError(
            f"The configuration has relative_attention_num_buckets {buckets} and "
            f"relative_attention_max_distance {distance}; the buckets must be at least 4, and the "
            f"distance must be above half of the buckets and at most {FARTHEST}."
        )


def dimensions(config: Any) -> Dimensions:
    """Return the sizes that the runtime needs to allocate memory."""
    return Dimensions(
        layers=config.num_decoder_layers,
        heads=config.num_heads,
        head_size=config.d_kv,
        stored_head_size=padded_head_size(config.d_kv),
        vocabulary=config.vocab_size,
        max_positions=None,
    )


def graphs(model: Any) -> list[Graph]:
    """Return encoder and decoder of ``model``."""
    sizes = dimensions(model.config)
    encoder = _stack(model.config, encoder_names(), model.config.num_layers)
    decoder = _stack(model.config, decoder_names(), sizes.layers)
    cross = decoder.attentions[0]
    return [
        encoder_graph(model.config, encoder, _encoder_weights(model), sizes),
        decoder_graph(
            model.config, replace(decoder, cross=cross), _decoder_weights(model, sizes), sizes
        ),
    ]


def _stack(config: Any, names: Names, layers: int) -> Stack:
    if config.is_gated_act:
        names = replace(names, ff_input=f"{names.ff_input}_0", ff_gate=f"{names.ff_input}_1")
    attention = Attention(heads=config.num_heads, head_size=config.d_kv, scale=1.0)
    return Stack(
        names=names,
        attentions=[attention] * layers,
        norm="rms",
        epsilon=config.layer_norm_epsilon,
        activation=config.dense_act_fn,
    )


def _decoder_weights(model: Any, sizes: Dimensions) -> Weights:
    """Return every weight once, linear weights as (input, output).

    The heads of self-attention are padded with zeros. A tied lm_head reads hidden states scaled by
    d_model ** -0.5; the weight of the last layer norm includes this factor.
    """
    config, decoder = model.config, model.decoder
    scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0
    first = decoder.block[0].layer[0].SelfAttention
    weights = {
        "shared": decoder.embed_tokens.weight,
        "decoder.bias_table": _bias_table(first, bidirectional=False),
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
        weights |= _feed_forward_weights(block.layer[2], config, name)
    return weights


def _encoder_weights(model: Any) -> Weights:
    encoder, decoder = model.encoder, model.decoder
    first = encoder.block[0].layer[0].SelfAttention
    weights = {
        "shared": encoder.embed_tokens.weight,
        "encoder.bias_table": _bias_table(first, bidirectional=True),
        "encoder.norm": encoder.final_layer_norm.weight,
    }
    for number, block in enumerate(encoder.block):
        name = f"encoder.{number}"
        attention = block.layer[0].SelfAttention
        weights[f"{name}.attention.norm"] = block.layer[0].layer_norm.weight
        linears = (attention.q, attention.k, attention.v)
        for projection, linear in zip(("query", "key", "value"), linears, strict=True):
            weights[f"{name}.attention.{projection}"] = linear.weight.T
        weights[f"{name}.attention.output"] = attention.o.weight.T
        weights |= _feed_forward_weights(block.layer[1], model.config, name)
    for number, block in enumerate(decoder.block):
        cross = block.layer[1].EncDecAttention
        weights[f"decoder.{number}.cross.key"] = cross.k.weight.T
        weights[f"decoder.{number}.cross.value"] = cross.v.weight.T
    return weights


def _feed_forward_weights(layer: Any, config: Any, block: str) -> Weights:
    """Return the weights of the feed-forward ``layer`` (a ``T5LayerFF``) and of its layer norm."""
    dense = layer.DenseReluDense
    names = ("wi_0", "wi_1", "wo") if config.is_gated_act else ("wi", "wo")
    return {
        f"{block}.ff.norm": layer.layer_norm.weight,
        **{f"{block}.ff.{name}": getattr(dense, name).weight.T for name in names},
    }


def _bias_table(attention: Any, *, bidirectional: bool) -> torch.Tensor:
    """Return the bias of each distance between query and key.

    ``attention``: the stack's first layer, whose biases all layers use. For an encoder the shape is
    (heads, 2 * reach + 1), for distances of a key from -reach to reach. For a decoder it is
    (heads, reach + 1), for distances of a key behind its query. Farther keys have the bias of the
    farthest distance (``T5Attention._relative_position_bucket``).
    """
    reach = attention.relative_attention_max_distance
    distances = torch.arange(-reach, reach + 1) if bidirectional else -torch.arange(reach + 1)
    buckets = T5Attention._relative_position_bucket(
        distances,
        bidirectional=bidirectional,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=reach,
    )
    table: torch.Tensor = attention.relative_attention_bias.weight[buckets].T
    return table
