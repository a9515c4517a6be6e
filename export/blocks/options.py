"""The options of a stack of layers, and the names of its weights.

The weights say which parts a stack has: a linear layer has a bias if there is a weight with the
bias' name. The same holds for positions, the norm of the embedding, the last norm, projections, an
lm_head of its own, its bias, and the norm of a parallel feed-forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ...runtime.bundle.manifest import Dimensions

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The self-attention or cross-attention of one layer."""

    heads: int
    head_size: int
    scale: float  # factor of the scores
    window: int | None = None  # number of keys that a query reads, its own included; None: all


def usual_attentions(sizes: Dimensions) -> list[Attention]:
    """Return the same self-attention for each layer: all keys, scores over the root of the size."""
    attention = Attention(heads=sizes.heads, head_size=sizes.head_size, scale=sizes.head_size**-0.5)
    return [attention] * sizes.layers


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of a stack's weights; ``{}`` is the number of the layer.

    A linear layer ``a`` has the weights ``a.weight``, (inputs, outputs), and ``a.bias``, or only a
    weight ``a``; a norm likewise.
    """

    table: str  # token embedding, (vocabulary, features)
    positions: str = ""  # learned or sinusoidal positions, (positions, features); "": none
    bias_table: str = ""  # relative positions: bias by head and distance
    # Rotary positions as in GPT-NeoX, the same for all layers: see `rotary_weights`
    cos: str = "rotary.cos"
    sin: str = "rotary.sin"
    embedding_projection: str = ""  # linear layer after the embedding
    embedding_norm: str = ""  # norm of the sum of embedding and positions
    attention_norm: str
    qkv: str  # a decoder's query, key and value in one layer
    query: str = ""  # an encoder's separate layers
    key: str = ""
    value: str = ""
    output: str
    cross_norm: str = ""
    cross_query: str = ""
    cross_output: str = ""
    ff_norm: str  # without this norm, a parallel feed-forward reads the attention's norm
    ff_input: str
    ff_gate: str = ""  # second input layer of a gated feed-forward
    ff_output: str
    norm: str = ""  # norm after the last layer
    output_projection: str = ""  # linear layer before the lm_head
    lm_head: str = "lm_head"  # (vocabulary, features); the embedding serves if there is none
    logits_bias: str = "logits_bias"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The options of an encoder or a decoder."""

    names: Names
    attentions: Sequence[Attention]  # self-attention by layer
    cross: Attention | None = None  # cross-attention of every layer
    norm: Literal["layer", "rms"] = "layer"
    epsilon: float = 1e-5
    norm_first: bool = True  # norm before each sub-layer (pre-norm), or after it (post-norm)
    is_parallel: bool = False  # attention and feed-forward read the same hidden states
    activation: str = "gelu"  # one of Transformers' activations
    embedding_scale: float = 1.0


def encoder_names(prefix: str = "encoder") -> Names:
    """Return the usual names of an encoder's weights."""
    return Names(
        table="shared",
        positions=f"{prefix}.positions",
        bias_table=f"{prefix}.bias_table",
        embedding_norm=f"{prefix}.embedding.norm",
        attention_norm=f"{prefix}.{{}}.attention.norm",
        qkv="",
        query=f"{prefix}.{{}}.attention.query",
        key=f"{prefix}.{{}}.attention.key",
        value=f"{prefix}.{{}}.attention.value",
        output=f"{prefix}.{{}}.attention.output",
        ff_norm=f"{prefix}.{{}}.ff.norm",
        ff_input=f"{prefix}.{{}}.ff.wi",
        ff_output=f"{prefix}.{{}}.ff.wo",
        norm=f"{prefix}.norm",
    )


def decoder_names(prefix: str = "decoder") -> Names:
    """Return the usual names of a decoder's weights."""
    return Names(
        table="shared",
        positions=f"{prefix}.positions",
        bias_table=f"{prefix}.bias_table",
        embedding_projection=f"{prefix}.embedding.projection",
        embedding_norm=f"{prefix}.embedding.norm",
        attention_norm=f"{prefix}.{{}}.attention.norm",
        qkv=f"{prefix}.{{}}.attention.qkv",
        output=f"{prefix}.{{}}.attention.output",
        cross_norm=f"{prefix}.{{}}.cross.norm",
        cross_query=f"{prefix}.{{}}.cross.query",
        cross_output=f"{prefix}.{{}}.cross.output",
        ff_norm=f"{prefix}.{{}}.ff.norm",
        ff_input=f"{prefix}.{{}}.ff.wi",
        ff_output=f"{prefix}.{{}}.ff.wo",
        norm=f"{prefix}.norm",
        output_projection=f"{prefix}.output.projection",
    )
