"""ONNX Runtime GenAI on the CPU, through its generator."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime_genai as og


class Peer:
    """A decoder whose cache, without beams, is one buffer that attention appends to."""

    PACKAGES = ("onnxruntime-genai", "onnxruntime", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        config = og.Config(job["model"])
        session_options = {"intra_op_num_threads": job["threads"]}
        # Without an end of sequence nothing stops a text, and nothing is computed to prevent one.
        overlay = {"model": {"decoder": {"session_options": session_options}, "eos_token_id": []}}
        config.overlay(json.dumps(overlay))
        self._model = og.Model(config)

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text after each prompt."""
        length = len(prompts[0])
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(
            do_sample=False,
            num_beams=beams,
            batch_size=len(prompts),
            max_length=length + new_tokens,
            past_present_share_buffer=beams == 1,
        )
        generator = og.Generator(self._model, parameters)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(row)[length:].tolist() for row in range(len(prompts))]
