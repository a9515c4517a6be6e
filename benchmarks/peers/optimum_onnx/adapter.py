"""Optimum ONNX: Transformers' ``generate`` around ONNX Runtime sessions."""

from __future__ import annotations

from typing import Any

import torch
from onnxruntime import SessionOptions
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM
from transformers import GenerationConfig


class Peer:
    """A model with its cache, on ONNX Runtime's CPU provider.

    No token ends a text because the generation settings, which replace the checkpoint's, name
    none: nothing is looked for or suppressed in the scores.
    """

    PACKAGES = ("optimum-onnx", "optimum", "transformers", "onnxruntime", "torch", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        options = SessionOptions()
        options.intra_op_num_threads = job["threads"]
        has_encoder = job["workload"]["is_encoder_decoder"]
        family = ORTModelForSeq2SeqLM if has_encoder else ORTModelForCausalLM
        # On a CPU, binding buffers helps T5 and delays GPT-2's first token. The default is not to.
        self._model = family.from_pretrained(
            job["model"], session_options=options, use_io_binding=has_encoder, local_files_only=True
        )
        start = self._model.config.decoder_start_token_id
        self._model.generation_config = GenerationConfig(
            decoder_start_token_id=start, pad_token_id=0, do_sample=False
        )

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text after each prompt."""
        ids = torch.tensor(prompts)
        texts = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, num_beams=beams
        )
        start = 1 if self._model.config.is_encoder_decoder else len(prompts[0])
        rows: list[list[int]] = texts[:, start:].tolist()
        return rows
