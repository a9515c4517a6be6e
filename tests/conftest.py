"""What many tests share: seeded checkpoints made with the real Transformers classes, and bundles
exported from them once a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, load

torch.set_num_threads(1)  # faster for models this small, and much so on a busy machine

MakeCheckpoint = Callable[..., Path]
VOCABULARY = 320
SEED_TEXT = ["Once upon a time there was a clever fox; he said: “Let us go home!” " * 20]


def byte_level_tokenizer() -> GPT2TokenizerFast:
    """A byte-level BPE like GPT-2's, its end-of-text token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SEED_TEXT, trainer)
    end = "<|endoftext|>"
    return GPT2TokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end
    )


def seeded_gpt2(seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
    """A small GPT-2 whose random weights are large enough that its texts vary."""
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


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """``make_checkpoint(seed, **config)``: the folder of a seeded GPT-2 with a tokenizer."""

    def make(seed: int = 0, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        seeded_gpt2(seed, **changes).save_pretrained(folder)
        byte_level_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """One checkpoint, not to be changed."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``checkpoint``, not to be changed."""
    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("bundle") / "gpt2").folder


@pytest.fixture(scope="session")
def model(bundle: Path) -> Model:
    """``bundle``, loaded."""
    return load(bundle, threads=1)


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> GPT2LMHeadModel:
    """``checkpoint`` in Transformers, with eager attention."""
    return GPT2LMHeadModel.from_pretrained(checkpoint, attn_implementation="eager").eval()


@torch.no_grad()
def greedy_ids(
    reference: GPT2LMHeadModel, prompt: Sequence[int], max_new_tokens: int, **options: Any
) -> list[int]:
    """What Transformers' greedy search adds to ``prompt``, alone in its batch."""
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


@pytest.fixture(scope="session", name="greedy_ids")
def greedy_ids_fixture() -> Callable[..., list[int]]:
    """``greedy_ids(reference, prompt, max_new_tokens, **options)``."""
    return greedy_ids


@pytest.fixture(scope="session", name="seeded_gpt2")
def seeded_gpt2_fixture() -> Callable[..., GPT2LMHeadModel]:
    """``seeded_gpt2(seed, **config)``."""
    return seeded_gpt2
