"""Small seeded models of the families besides GPT-2 and T5, in several shapes each.

The shapes differ in what the families' graphs are made of: numbers of layers and heads, head sizes
that need padding, tied and untied tables, order of norms, scaled embeddings, biases of the logits,
windows shorter than a text, and rotary positions on a part of each head, in either order of
pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from tests.support.tiny_tokenizers import VOCABULARY

torch.set_num_threads(1)  # faster for models this small

Settings = dict[str, Any]


class Kind(NamedTuple):
    """A family's classes in Transformers, and settings that fit all of its shapes."""

    config: Any
    model: Any
    common: Settings


SIDES = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 96,
    "pad_token_id": 1,
    "eos_token_id": None,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
}
NEO = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_layers": 2,
    "num_heads": 4,
    "window_size": 7,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 96,
}
NEOX = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
}
GPTJ = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 96,
    "rotary_dim": 16,
}
KINDS = {
    "bart": Kind(BartConfig, BartForConditionalGeneration, SIDES),
    "mbart": Kind(MBartConfig, MBartForConditionalGeneration, SIDES),
    "marian": Kind(MarianConfig, MarianMTModel, SIDES),
    "m2m_100": Kind(M2M100Config, M2M100ForConditionalGeneration, SIDES),
    "pegasus": Kind(PegasusConfig, PegasusForConditionalGeneration, SIDES),
    "opt": Kind(OPTConfig, OPTForCausalLM, OPT),
    "gpt_neo": Kind(GPTNeoConfig, GPTNeoForCausalLM, NEO),
    "gpt_neox": Kind(GPTNeoXConfig, GPTNeoXForCausalLM, NEOX),
    "gptj": Kind(GPTJConfig, GPTJForCausalLM, GPTJ),
}
UNEQUAL = {"encoder_layers": 1, "decoder_layers": 3, "encoder_attention_heads": 6}
ODD_HEADS = {"d_model": 36, "decoder_attention_heads": 3, "activation_function": "relu"}
UNTIED = {"tie_word_embeddings": False, "scale_embedding": True}
SHAPES: dict[str, tuple[Settings, ...]] = {
    "bart": ({}, UNEQUAL, ODD_HEADS, {"scale_embedding": True, "activation_function": "gelu_new"}),
    "mbart": ({}, UNEQUAL, ODD_HEADS, {"scale_embedding": True, "activation_function": "silu"}),
    "marian": (
        {"activation_function": "silu"},
        {**UNEQUAL, "scale_embedding": True},
        ODD_HEADS,
        {**UNTIED, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": VOCABULARY},
    ),
    "m2m_100": ({}, UNEQUAL, {**ODD_HEADS, "pad_token_id": 3}, {"scale_embedding": False}),
    "pegasus": ({}, UNEQUAL, ODD_HEADS, {"scale_embedding": True, "decoder_ffn_dim": 33}),
    "opt": (
        {},
        {"do_layer_norm_before": False, "word_embed_proj_dim": 32},
        {"hidden_size": 36, "num_attention_heads": 3, "enable_bias": False},
        {"_remove_final_layer_norm": True, "tie_word_embeddings": False, "num_hidden_layers": 3},
    ),
    "gpt_neo": (
        {},
        {"num_layers": 3, "attention_types": [[["local"], 2], [["global"], 1]], "window_size": 1},
        {"hidden_size": 36, "num_heads": 3, "activation_function": "relu"},
        {"intermediate_size": 50, "window_size": 30, "tie_word_embeddings": False},
    ),
    "gpt_neox": (
        {"rotary_pct": 1.0},
        {"hidden_size": 128, "num_attention_heads": 2, "use_parallel_residual": False},
        {"rotary_pct": 0.5, "hidden_size": 36, "num_attention_heads": 3, "attention_bias": False},
        {
            "rotary_pct": 0.25,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_new",
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
    ),
    "gptj": (
        {},
        {"n_embd": 128, "tie_word_embeddings": True},
        {"n_embd": 36, "n_head": 3, "rotary_dim": 10, "activation_function": "relu"},
        {"n_layer": 3, "rotary_dim": 2, "n_inner": 50, "layer_norm_epsilon": 1e-3},
    ),
}
NAMES = [f"{family}-{shape}" for family, shapes in SHAPES.items() for shape in range(len(shapes))]
FIXED = "embed_positions"  # sinusoids, which a checkpoint does not hold, are not changed


@torch.no_grad()
def seeded_model(name: str, seed: int = 0, **changes: Any) -> Any:
    """Return the model ``name``, one of ``NAMES``, with random weights so large that texts vary."""
    family, _, shape = name.partition("-")
    kind = KINDS[family]
    settings = {**kind.common, **SHAPES[family][int(shape)], **changes}
    torch.manual_seed(seed)
    model = kind.model(kind.config(**settings, attn_implementation="eager"))
    generator = torch.Generator().manual_seed(seed)
    for weight, parameter in model.named_parameters():
        if FIXED in weight and family in ("marian", "pegasus"):
            continue
        size = 0.3 if parameter.ndim == 1 else 0.25
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    if "final_logits_bias" in dict(model.named_buffers()):
        bias = model.final_logits_bias
        bias.copy_(torch.randn(bias.shape, generator=generator))
    return model.eval()
