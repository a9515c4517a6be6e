"""Write a synthetic checkpoint: real dimensions, seeded random weights and a byte tokenizer.

    python benchmarks/checkpoints.py gpt2 FOLDER      (or t5-small and so on)

Speed and memory depend on a model's dimensions, not on its training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
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


def write_checkpoint(name: str, folder: Path, seed: int = 0) -> None:
    """Write a checkpoint with the dimensions of ``name`` to ``folder``."""
    torch.manual_seed(seed)
    if name in T5_SIZES:
        # Untrained tied weights generate the same token again and again; the speed is the same.
        config = T5Config(decoder_start_token_id=0, **T5_SIZES[name])
        T5ForConditionalGeneration(config).save_pretrained(folder)
        ByT5Tokenizer().save_pretrained(folder)
        return
    GPT2LMHeadModel(GPT2Config(**GPT2_SIZES[name])).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    GPT2TokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def main() -> None:
    """Write the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("name", choices=[*GPT2_SIZES, *T5_SIZES])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_checkpoint(arguments.name, arguments.folder)


if __name__ == "__main__":
    main()
