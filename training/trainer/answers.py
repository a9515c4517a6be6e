"""How well a model predicts held-out examples: loss, answers, and samples to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from ...runtime.evaluation.error_rates import error_rates
from ..models import longest_sequence
from ..tokens.examples import IGNORED, Collator, HeldOut, Ids, Pairs, padded

ANSWER_BATCH = 64  # pairs that are answered together


def token_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy in nats per label, ``labels`` beside their logits.

    ``num_items_in_batch``: the labels of all batches of an update.
    """
    logits = outputs.logits.float().flatten(0, 1)
    labels = labels.to(logits.device).flatten()
    total = cross_entropy(
        logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    count = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    return total / count


@torch.no_grad()
def held_out_loss(
    model: Any,
    held_out: HeldOut,
    collate: Collator,
    size: int,
    device: torch.device,
    autocast: AbstractContextManager[Any],
) -> dict[str, float]:
    """Return the loss in nats per token, the perplexity and, of texts, the bits per byte."""
    nats, count = 0.0, 0
    rows = sorted(held_out.rows, key=lambda row: len(row[0]))
    for start in range(0, len(rows), size):
        batch = {k: v.to(device) for k, v in collate(rows[start : start + size]).items()}
        labels = batch.pop("labels")
        with autocast:
            outputs = model(**batch, use_cache=False)
        here = int((labels != IGNORED).sum())
        nats += token_loss(outputs, labels).item() * here
        count += here
    loss = nats / count
    found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    if held_out.sizes is not None:
        found["bits_per_byte"] = nats / held_out.sizes / math.log(2)
    return found


@torch.no_grad()
def answers(
    model: Any,
    tokenizer: Any,
    pairs: Pairs,
    settings: GenerationConfig,
    device: torch.device,
) -> list[str]:
    """Return the greedy answer to each source.

    An encoder-decoder answers sources of several lengths together. A decoder-only model answers
    prompts of one length at a time, so that no position is padding.
    """
    order = sorted(range(len(pairs)), key=lambda i: len(pairs.sources[i]))
    together: list[list[int]] = [order]
    if pairs.joined:
        grouped = groupby(order, key=lambda i: len(pairs.sources[i]))
        together = [list(numbers) for _, numbers in grouped]
    found = [""] * len(pairs)
    for numbers in together:
        for start in range(0, len(numbers), ANSWER_BATCH):
            chosen = numbers[start : start + ANSWER_BATCH]
            sources = [pairs.sources[i] for i in chosen]
            texts = _answer(model, tokenizer, sources, settings, device, joined=pairs.joined)
            for number, text in zip(chosen, texts, strict=True):
                found[number] = text
    return found


def _answer(
    model: Any,
    tokenizer: Any,
    sources: Sequence[Ids],
    settings: GenerationConfig,
    device: torch.device,
    *,
    joined: bool,
) -> list[str]:
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = tokenizer.eos_token_id
    ids = padded(sources, pad).to(device)
    mask = padded([np.ones_like(source) for source in sources], 0).to(device)
    given = {**settings.to_dict(), "pad_token_id": pad}
    if joined:  # a prompt and its answer share the model's positions
        room = longest_sequence(model, tokenizer) - ids.shape[1]
        given["max_new_tokens"] = max(1, min(given["max_new_tokens"], room))
    settings = GenerationConfig(**given)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=settings,
        do_sample=False,
        num_beams=1,
        use_cache=_has_cache(model.config),
    )
    new = out[:, ids.shape[1] :] if joined else out[:, 1:]
    texts: list[str] = tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def _has_cache(config: Any) -> bool:
    """Return whether Transformers' cache works: it fails for T5 with more decoder layers."""
    deep = getattr(config, "num_decoder_layers", None)
    return deep is None or deep <= config.num_layers


def answer_figures(found: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Return exact match and error rates; error rates of blank targets are left out."""
    if not any(text.split() for text in expected):
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        return {"exact_match": same / len(expected)}
    return asdict(error_rates(found, expected))
