"""Seeded checkpoints of Transformers, and what Transformers generates from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    T5TokenizerFast,
)

from tests.support.tiny_tokenizers import END_OF_TEXT, VOCABULARY, byte_level_bpe, unigram

torch.set_num_threads(1)  # faster for models this small, and much so on a busy machine


def byte_level_tokenizer() -> GPT2TokenizerFast:
    """Return Transformers' form of ``byte_level_bpe``."""
    end = END_OF_TEXT
    return GPT2TokenizerFast(
        tokenizer_object=byte_level_bpe(), bos_token=end, eos_token=end, unk_token=end
    )


def seeded_gpt2(seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
    """Return a small GPT-2 with random weights so large that its texts vary."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "n_positions": 96,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **changes,
    }
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**settings)).eval()


@torch.no_grad()
def greedy_ids(
    reference: GPT2LMHeadModel, prompt: Sequence[int], max_new_tokens: int, **options: Any
) -> list[int]:
    """Return the new ids of Transformers' greedy search for one prompt."""
    ids = torch.tensor([list(prompt)])
    output = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=0,
        **options,
    )
    new_ids: list[int] = output[0, len(prompt) :].tolist()
    return new_ids


def unigram_tokenizer() -> T5TokenizerFast:
    """Return Transformers' form of ``unigram``."""
    return T5TokenizerFast(tokenizer_object=unigram(), extra_ids=0)


def seeded_t5(
    seed: int = 0, *, model_type: str = "t5", **changes: Any
) -> T5ForConditionalGeneration:
    """Return a small T5 with eager attention and random weights whose texts vary.

    Its largest relative distance is 20, so that short texts exceed it.
    """
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "d_model": 48,
        "d_kv": 12,
        "num_heads": 4,
        "d_ff": 64,
        "num_layers": 2,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "tie_word_embeddings": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": None,
        "attn_implementation": "eager",
        **changes,
    }
    torch.manual_seed(seed)
    if model_type == "mt5":
        model = MT5ForConditionalGeneration(MT5Config(**settings))
    else:
        model = T5ForConditionalGeneration(T5Config(**settings))
    make_t5_varied(model)
    return model.eval()


@torch.no_grad()
def make_t5_varied(model: T5ForConditionalGeneration) -> None:
    """Make norms random, which start as 1, and relative positions important.

    The blocks must outweigh the embedding, or a tied model repeats one token.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        elif "relative_attention_bias" in name:
            parameter.copy_(3 * torch.randn(parameter.shape, generator=generator))
        elif name.endswith("Attention.q.weight"):
            parameter.mul_(4)
        elif name.endswith("SelfAttention.o.weight"):
            parameter.mul_(10)
        elif name.endswith("EncDecAttention.o.weight"):
            parameter.mul_(4)
        elif name.endswith(".wo.weight"):
            parameter.mul_(2)
    model.shared.weight.mul_(0.05)
    if model.config.tie_word_embeddings:
        model.decoder.final_layer_norm.weight.mul_(30)
    else:
        model.lm_head.weight.mul_(0.4)


@torch.no_grad()
def t5_ids(
    reference: T5ForConditionalGeneration, sources: Sequence[Sequence[int]], **options: Any
) -> list[list[int]]:
    """Return the decoder's ids in Transformers' greedy search, with padded and masked sources.

    Transformers' cache fails if the decoder has more layers than the encoder, and is then off.
    """
    longest = max(map(len, sources))
    ids = torch.tensor([[*source, *[0] * (longest - len(source))] for source in sources])
    lengths = torch.tensor([len(source) for source in sources])
    output = reference.generate(
        ids,
        attention_mask=(torch.arange(longest) < lengths[:, None]).long(),
        do_sample=False,
        use_cache=reference.config.num_decoder_layers <= reference.config.num_layers,
        **options,
    )
    decoder_ids: list[list[int]] = output.tolist()
    return decoder_ids


@torch.no_grad()
def t5_logits(
    reference: T5ForConditionalGeneration, source: Sequence[int], decoder_ids: Sequence[int]
) -> torch.Tensor:
    """Return PyTorch's logits for one source, (decoder ids, vocabulary)."""
    logits: torch.Tensor = reference(
        torch.tensor([list(source)]),
        decoder_input_ids=torch.tensor([list(decoder_ids)]),
        use_cache=False,
    ).logits[0]
    return logits
