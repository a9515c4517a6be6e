"""What many tests share: seeded checkpoints made with the real Transformers classes, and bundles
exported from them once a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # A core each: threads that wait for each other while they spin would slow all of them down.
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    T5TokenizerFast,
)

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


# T5


def unigram_tokenizer() -> T5TokenizerFast:
    """A Unigram tokenizer like T5's, its padding, end and unknown tokens 0, 1 and 2."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SEED_TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0)


def seeded_t5(
    seed: int = 0, *, model_type: str = "t5", **changes: Any
) -> T5ForConditionalGeneration:
    """A small T5 with eager attention whose random weights are such that its texts vary.

    Sources and texts of a few dozen tokens reach beyond its relative distances.
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
    """Norms start as 1 and would hide one taken for another; relative positions hardly count.

    The blocks must outweigh the embedding: else a tied model repeats a token for ever.
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


@pytest.fixture(scope="session", name="seeded_t5")
def seeded_t5_fixture() -> Callable[..., T5ForConditionalGeneration]:
    """``seeded_t5(seed, model_type="t5" or "mt5", **config)``."""
    return seeded_t5


@pytest.fixture(scope="session")
def save_t5(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``save_t5(model)``: its checkpoint, with ByT5's tokenizer if the vocabulary is as large."""

    def save(model: T5ForConditionalGeneration) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        bytes_fit = model.config.vocab_size >= 384
        tokenizer = ByT5Tokenizer() if bytes_fit else unigram_tokenizer()
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def t5_reference() -> T5ForConditionalGeneration:
    """One T5, not to be changed."""
    return seeded_t5()


@pytest.fixture(scope="session")
def t5_checkpoint(t5_reference: T5ForConditionalGeneration, save_t5: Callable[..., Path]) -> Path:
    """The checkpoint of ``t5_reference``, not to be changed."""
    return save_t5(t5_reference)


@pytest.fixture(scope="session")
def t5_model(t5_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """``t5_checkpoint``, exported and loaded."""
    bundle = export_checkpoint(t5_checkpoint, tmp_path_factory.mktemp("bundle") / "t5")
    return load(bundle.folder, threads=1)


@torch.no_grad()
def t5_ids(
    reference: T5ForConditionalGeneration, sources: Sequence[Sequence[int]], **options: Any
) -> list[list[int]]:
    """What the decoder read and wrote in Transformers' greedy search, sources padded and masked.

    Without a cache where Transformers' own fails: if the decoder has more layers than the encoder.
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


@pytest.fixture(scope="session", name="t5_ids")
def t5_ids_fixture() -> Callable[..., list[list[int]]]:
    """``t5_ids(reference, sources, **options)``."""
    return t5_ids


@torch.no_grad()
def t5_logits(
    reference: T5ForConditionalGeneration, source: Sequence[int], decoder_ids: Sequence[int]
) -> torch.Tensor:
    """(decoder ids, vocabulary): PyTorch's logits after each of them, the source alone."""
    logits: torch.Tensor = reference(
        torch.tensor([list(source)]),
        decoder_input_ids=torch.tensor([list(decoder_ids)]),
        use_cache=False,
    ).logits[0]
    return logits


@pytest.fixture(scope="session", name="t5_logits")
def t5_logits_fixture() -> Callable[..., torch.Tensor]:
    """``t5_logits(reference, source, decoder_ids)``."""
    return t5_logits
