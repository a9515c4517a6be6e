"""Hugging Face Transformers on PyTorch, through ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartForConditionalGeneration,
    GenerationConfig,
    GPT2LMHeadModel,
    MarianMTModel,
    T5ForConditionalGeneration,
)

MODELS = {
    "bart": BartForConditionalGeneration,
    "gpt2": GPT2LMHeadModel,
    "marian": MarianMTModel,
    "t5": T5ForConditionalGeneration,
}


class Peer:
    """A model with its default attention, the quickest it has, or one saved with 8-bit layers.

    No token ends a text because the generation settings, which replace the checkpoint's, name
    none: nothing is looked for or suppressed in the scores.
    """

    PACKAGES = ("transformers", "torch", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        folder = Path(job["model"])
        if job["format"] == "int8":
            self._model = torch.load(folder / "model.pt", weights_only=False, mmap=True)
        else:
            family = MODELS[job["workload"]["model"].split("-")[0]]
            self._model = family.from_pretrained(folder).eval()
        start = self._model.config.decoder_start_token_id
        self._model.generation_config = GenerationConfig(
            decoder_start_token_id=start, pad_token_id=0, do_sample=False
        )

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text after each prompt."""
        ids = torch.tensor(prompts)
        texts = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            num_beams=beams,
        )
        start = 1 if self._model.config.is_encoder_decoder else len(prompts[0])
        rows: list[list[int]] = texts[:, start:].tolist()
        return rows
