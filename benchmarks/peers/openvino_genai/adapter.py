"""OpenVINO GenAI's LLMPipeline on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino_genai import GenerationConfig, LLMPipeline, SchedulerConfig, TokenizedInputs


class Peer:
    """A pipeline on its default backend, paged attention.

    Its default would keep the cache of every prompt it has seen and read a repeated one from there:
    that is switched off here, as a prompt is measured several times.
    """

    PACKAGES = ("openvino-genai", "openvino", "openvino-tokenizers", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        scheduler = SchedulerConfig()
        scheduler.max_num_batched_tokens = 2**62  # a prompt in one piece, as by default
        scheduler.enable_prefix_caching = False
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": job["threads"],
        }
        if job["format"] == "fp32":  # the default is bfloat16 where the processor has it
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        else:  # activations in groups of 128 are quicker than the default of 32
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "128"
        self._pipeline = LLMPipeline(job["model"], "CPU", scheduler_config=scheduler, **properties)
        self._no_token = job["vocabulary"]

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text after each prompt."""
        config = GenerationConfig(
            max_new_tokens=new_tokens,
            num_beams=beams,
            do_sample=False,
            ignore_eos=True,
            # Beam search looks at these in spite of `ignore_eos`: an id that no text has.
            eos_token_id=self._no_token,
            stop_token_ids={self._no_token},
        )
        ids = np.array(prompts, dtype=np.int64)
        inputs = TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        return list(self._pipeline.generate(inputs, config).tokens)
