"""Small models of Transformers' classes, trained for a few seconds on the text in the package."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from edgeseq.quantize.texts import built_in
from tests.support.family_checkpoints import KINDS, Kind, Settings
from tests.support.tiny_tokenizers import END_OF_TEXT, VOCABULARY, byte_level_bpe

STEPS, ROWS, TOKENS, RATE = 200, 12, 64, 6e-3
SIZE = 0.08  # of the first random weights: with Transformers' 0.02 so few steps teach little
WORDS = 8  # words of a pair's target
IGNORED = -100  # label of padding

GPT2 = Kind(
    GPT2Config,
    GPT2LMHeadModel,
    {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 96},
)
T5 = Kind(
    T5Config,
    T5ForConditionalGeneration,
    {"vocab_size": VOCABULARY, "d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2},
)
STARTS = {"init_std": SIZE, "pad_token_id": 0, "decoder_start_token_id": 0, "bos_token_id": 0}


class Form(NamedTuple):
    """A model's classes in Transformers, and its settings besides theirs."""

    kind: Kind
    changes: Settings


FORMS = {
    "gpt2": Form(GPT2, {"initializer_range": SIZE}),
    "opt, norms first": Form(KINDS["opt"], {"init_std": SIZE}),
    "opt, norms last": Form(KINDS["opt"], {"do_layer_norm_before": False, "init_std": SIZE}),
    "gpt_neo, windows": Form(KINDS["gpt_neo"], {"initializer_range": SIZE}),
    "gptj, rotary": Form(KINDS["gptj"], {"initializer_range": SIZE}),
    "t5": Form(T5, STARTS),
    "bart, norms last": Form(KINDS["bart"], STARTS),
    "mbart, norms first": Form(KINDS["mbart"], {**STARTS, "scale_embedding": True}),
}


class Texts(NamedTuple):
    """Files for training and for judging: text, or pairs of source and target."""

    training: Path
    held_out: Path


def write_texts(folder: Path, *, pairs: bool) -> Texts:
    """Split the text in the package; a source is its target without vowels."""
    words = built_in().read_text(encoding="utf-8").split()
    cut = len(words) * 3 // 4
    paths = [folder / f"{name}.{'tsv' if pairs else 'txt'}" for name in ("training", "held_out")]
    for path, part in zip(paths, (words[:cut], words[cut:]), strict=True):
        text = " ".join(part)
        if pairs:
            targets = [" ".join(part[i : i + WORDS]) for i in range(0, len(part), WORDS)]
            text = "".join(f"{without_vowels(target)}\t{target}\n" for target in targets)
        path.write_text(text, encoding="utf-8")
    return Texts(*paths)


def without_vowels(text: str) -> str:
    return "".join(letter for letter in text if letter not in "aeiou") or text


def trained_checkpoint(form: str, texts: Texts, folder: Path) -> Path:
    """Train the model ``form``, one of ``FORMS``, and save it with its tokenizer."""
    kind, changes = FORMS[form]
    torch.manual_seed(0)
    # No dropout in evaluation mode, so the training needs no settings for it.
    model = kind.model(kind.config(**{**kind.common, **changes})).eval()
    text = texts.training.read_text(encoding="utf-8")
    backend = byte_level_bpe([text.replace("\t", " ")])
    rng = np.random.default_rng(0)
    if model.config.is_encoder_decoder:
        pairs = [line.split("\t") for line in text.splitlines()]
        encoded = [tuple(backend.encode(part).ids for part in pair) for pair in pairs]
        steps = (pair_batch(encoded, rng) for _ in range(STEPS))
    else:
        ids = np.array(backend.encode(text).ids)
        steps = (text_batch(ids, rng) for _ in range(STEPS))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for inputs in steps:
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    end = END_OF_TEXT
    tokenizer = GPT2TokenizerFast(
        tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end
    )
    tokenizer.save_pretrained(folder)
    return folder


OUTLIERS, LARGER = (3, 17, 30), 30.0  # channels of norms, and how much larger they become
READERS = {
    "self_attn_layer_norm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "encoder_attn_layer_norm": ("encoder_attn.q_proj",),
    "final_layer_norm": ("fc1",),
}


@torch.no_grad()
def add_outliers(model: Any) -> None:
    """Make channels of norms before sub-layers larger and the weights behind them smaller.

    The model computes the same. ``model``: an OPT, or one with BART's layers.
    """
    layers = [module for module in model.modules() if hasattr(module, "fc1")]
    for layer, (norm, readers) in itertools.product(layers, READERS.items()):
        if hasattr(layer, norm):
            for parameter in getattr(layer, norm).parameters():
                parameter[list(OUTLIERS)] *= LARGER
            for name in readers:
                layer.get_submodule(name).weight[:, list(OUTLIERS)] /= LARGER


def text_batch(ids: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    starts = rng.integers(len(ids) - TOKENS, size=ROWS)
    rows = torch.tensor(np.stack([ids[start : start + TOKENS] for start in starts]))
    return {"input_ids": rows, "labels": rows}


def pair_batch(encoded: list[tuple[Any, ...]], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    chosen = [encoded[i] for i in rng.integers(len(encoded), size=ROWS)]
    sources, targets = (
        torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(ids) for ids in side], batch_first=True, padding_value=IGNORED
        )
        for side in zip(*chosen, strict=True)
    )
    starts = torch.zeros(ROWS, 1, dtype=torch.long)
    return {
        "input_ids": sources.clamp(min=0),
        "attention_mask": (sources != IGNORED).long(),
        "decoder_input_ids": torch.cat([starts, targets[:, :-1].clamp(min=0)], dim=1),
        "labels": targets,
    }
