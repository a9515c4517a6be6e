"""OpenVINO through Optimum Intel, whose loop is that of Transformers: for T5, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from optimum.intel import OVModelForSeq2SeqLM


class Peer:
    """An encoder and a decoder that keeps its cache in the runtime."""

    PACKAGES = ("optimum-intel", "openvino", "optimum", "transformers", "torch", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": job["threads"],
            # The default is bfloat16 where the processor has it; T5's beams then end at once, or
            # differ from run to run.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if job["format"] != "fp32":  # activations in groups of 128: quicker than the default of 32
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "128"
        self._model = OVModelForSeq2SeqLM.from_pretrained(
            job["model"], device="CPU", ov_config=properties
        )
        # Without an end of sequence nothing stops a text, and nothing is computed to prevent one.
        self._model.generation_config.eos_token_id = None

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text for each prompt."""
        ids = torch.tensor(prompts)
        texts = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            num_beams=beams,
            do_sample=False,
        )
        return texts[:, 1:].tolist()  # the first is the decoder's start token
