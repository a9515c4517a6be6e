"""The held-out figures of a checkpoint in PyTorch, on the same tokens as those of its bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ...export.checkpoint.loading import load_model
from ...export.checkpoint.reading import quiet_transformers
from ...export.families.family import find_family
from ...runtime.evaluation.continuations import BATCH
from ...runtime.evaluation.error_rates import error_rates
from ...runtime.evaluation.losses import Loss
from ...runtime.evaluation.report import loss_figures
from ...runtime.model import Model
from ...runtime.progress import Progress
from ...runtime.request.batching import batches
from ...runtime.request.passages import Passages, Window


def checkpoint_figures(
    checkpoint: Path, exported: Model, passages: Passages, threads: int | None
) -> dict[str, Any]:
    """Return the figures that ``measure_report`` gives of a bundle.

    ``exported``: the checkpoint's bundle, whose tokenizer and generation defaults are used.
    """
    found = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        with quiet_transformers():
            model = load_model(find_family(checkpoint), checkpoint, lambda message: None).eval()
            figures = loss_figures(_loss(model, passages), passages)
            if passages.pairs:
                answers = _answers(model, exported, passages)
                rates = error_rates(answers, [target for _, target in passages.pairs])
                figures |= vars(rates)
    finally:
        torch.set_num_threads(found)
    return figures


@torch.inference_mode()
def _loss(model: PreTrainedModel, passages: Passages) -> Loss:
    tokens, nats = 0, 0.0
    with Progress("evaluating the checkpoint", passages.tokens, unit="tokens") as progress:
        for window in passages.windows:
            if not window.predicted:
                continue
            logits = model(**_inputs(window), use_cache=False).logits[0, window.first - 1 :]
            targets = torch.tensor(window.tokens[window.first :])
            nats += torch.nn.functional.cross_entropy(
                logits.float(), targets, reduction="sum"
            ).item()
            tokens += window.predicted
            progress(window.predicted)
    return Loss(tokens=tokens, nats=nats)


def _inputs(window: Window) -> dict[str, torch.Tensor]:
    read = torch.tensor([window.tokens[:-1]])
    if not window.source:
        return {"input_ids": read}
    return {"input_ids": torch.tensor([window.source]), "decoder_input_ids": read}


@torch.inference_mode()
def _answers(model: Any, exported: Model, passages: Passages) -> list[str]:
    """Return Transformers' greedy answers, with the limits of ``answers`` in the runtime."""
    windows = passages.windows
    defaults = exported.bundle.manifest.generation
    options: dict[str, Any] = {"do_sample": False}
    if not {"max_length", "max_new_tokens"} & defaults.keys():
        options["max_new_tokens"] = 2 * max(window.predicted for window in windows)
    if model.generation_config.pad_token_id is None:
        options["pad_token_id"] = 0  # masked before a prompt, and cut off after an answer
    if not _caches(model):
        options["use_cache"] = False
    is_decoder_only = not exported.bundle.manifest.has_encoder
    texts = [""] * len(windows)
    with Progress("answering with the checkpoint", len(windows), unit="texts") as progress:
        for chosen in batches([len(window.prompt) for window in windows], rows=BATCH):
            prompts = [list(windows[i].prompt) for i in chosen]
            longest = max(map(len, prompts))
            ids = torch.zeros(len(prompts), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(prompts):
                place = (
                    slice(longest - len(prompt), None) if is_decoder_only else slice(len(prompt))
                )
                ids[row, place] = torch.tensor(prompt)
                mask[row, place] = 1
            answers = model.generate(ids, attention_mask=mask, **options)
            for row, i in enumerate(chosen):
                new = answers[row, longest if is_decoder_only else 1 :].tolist()
                texts[i] = exported.tokenizer.decode(_until_end(new, exported))
            progress(len(chosen))
    return texts


def _caches(model: Any) -> bool:
    """Return whether Transformers' KV cache works.

    It fails for a T5 whose decoder has more layers than its encoder.
    """
    layers = getattr(model.config, "num_layers", None)
    return layers is None or getattr(model.config, "num_decoder_layers", 0) <= layers


def _until_end(ids: list[int], exported: Model) -> list[int]:
    """Return the ids before the first end-of-sequence token."""
    ends = exported.bundle.manifest.generation.get("eos_token_id")
    ends = ends if isinstance(ends, list | tuple) else [ends]
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]
