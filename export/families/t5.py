"""The T5 family: T5, T5 v1.1, Flan-T5, T0, mT5 and ByT5.

This module defines the checkpoints that belong to it, and the sizes that the runtime needs. The two
graphs are in ``t5_encoder.py`` and ``t5_decoder.py``.
"""

from __future__ import annotations

from typing import Any

from transformers import MT5ForConditionalGeneration, T5ForConditionalGeneration

from ...runtime.bundle.manifest import Dimensions, Kind
from ...runtime.errors import CheckpointError
from ..graphs.attention import padded_head_size
from ..graphs.tracing import Graph
from .settings import check_activation, check_number, check_sizes
from .t5_decoder import decoder_graph
from .t5_encoder import encoder_graph

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
    """Return encoder and decoder of ``model``.

    Their contract is in ``docs/how-it-works/graph.md``.
    """
    sizes = dimensions(model.config)
    return [encoder_graph(model, sizes), decoder_graph(model, sizes)]
