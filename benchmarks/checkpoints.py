"""Write a synthetic checkpoint: real dimensions, seeded random weights and a byte tokenizer.

    python benchmarks/checkpoints.py gpt2 FOLDER      (or t5-small, bart-base, marian and so on)

Speed and memory depend on a model's dimensions, not on its training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

GPT2_SIZES = {
    "distilgpt2": {"n_layer": 6},
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}


T5_SIZES: dict[str, dict[str, object]] = {
    "t5-small": {},
    "t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "flan-t5-small": {
        "d_ff": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "t0-3b": {
        "d_model": 2048,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}

BART_SIZES: dict[str, dict[str, object]] = {
    "bart-base": {
        "d_model": 768,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 12,
        "decoder_attention_heads": 12,
        "encoder_ffn_dim": 3072,
        "decoder_ffn_dim": 3072,
        "normalize_before": False,  # not used by Transformers, but by other programs
        "normalize_embedding": True,
    },
}
MARIAN_SIZES: dict[str, dict[str, object]] = {
    "marian": {  # as Opus-MT's models
        "vocab_size": 58101,
        "d_model": 512,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 8,
        "decoder_attention_heads": 8,
        "encoder_ffn_dim": 2048,
        "decoder_ffn_dim": 2048,
        "max_position_embeddings": 512,
        "activation_function": "swish",
        "scale_embedding": True,
    },
}
NAMES = (*GPT2_SIZES, *T5_SIZES, *BART_SIZES, *MARIAN_SIZES)


def write_checkpoint(name: str, folder: Path, seed: int = 0) -> None:
    """Write a checkpoint with the dimensions of ``name`` to ``folder``."""
    torch.manual_seed(seed)
    if name in T5_SIZES:
        # Untrained tied weights generate the same token again and again; the speed is the same.
        config = T5Config(decoder_start_token_id=0, **T5_SIZES[name])
        T5ForConditionalGeneration(config).save_pretrained(folder)
        ByT5Tokenizer().save_pretrained(folder)
    elif name in BART_SIZES:
        bart = BartConfig(forced_eos_token_id=None, **BART_SIZES[name])
        BartForConditionalGeneration(bart).save_pretrained(folder)
        write_byte_tokenizer(["<s>", "<pad>", "</s>", "<unk>"], folder)
    elif name in MARIAN_SIZES:
        marian = MarianConfig(
            eos_token_id=0,
            pad_token_id=58100,
            decoder_start_token_id=58100,
            forced_eos_token_id=None,
            **MARIAN_SIZES[name],
        )
        MarianMTModel(marian).save_pretrained(folder)
        write_byte_tokenizer(["</s>", "<unk>"], folder)
    else:
        GPT2LMHeadModel(GPT2Config(**GPT2_SIZES[name])).save_pretrained(folder)
        tokenizer = byte_tokenizer([], ["<|endoftext|>"])
        GPT2TokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def byte_tokenizer(first: list[str], last: list[str]) -> Tokenizer:
    """Return a tokenizer with a token for each byte, between special tokens."""
    tokens = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet()), *last]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_byte_tokenizer(special: list[str], folder: Path) -> None:
    """Write a tokenizer of bytes that ends each text with ``</s>``; ``special`` come first."""
    tokenizer = byte_tokenizer(special, [])
    end = ("</s>", special.index("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[end])
    names = {"eos_token": "</s>", "unk_token": "<unk>"}
    if "<pad>" in special:
        names |= {"pad_token": "<pad>", "bos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def main() -> None:
    """Write the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_checkpoint(arguments.name, arguments.folder)


if __name__ == "__main__":
    main()
