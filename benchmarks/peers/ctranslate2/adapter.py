"""CTranslate2: GPT-2 through its ``Generator``, encoder-decoders through its ``Translator``."""

from __future__ import annotations

from typing import Any

import ctranslate2

COMPUTE_TYPES = {"fp32": "float32", "int8": "int8"}


class Peer:
    """A converted model whose tokens are the ids written as text (see convert.py)."""

    PACKAGES = ("ctranslate2", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        has_encoder = job["workload"]["is_encoder_decoder"]
        self._run = self._translate if has_encoder else self._continue
        self._model = (ctranslate2.Translator if has_encoder else ctranslate2.Generator)(
            job["model"],
            device="cpu",
            compute_type=COMPUTE_TYPES[job["format"]],
            inter_threads=1,
            intra_threads=job["threads"],
        )

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text after each prompt; no token ends a text (``end_token=[]``)."""
        return self._run([[str(i) for i in ids] for ids in prompts], new_tokens, beams)

    def _continue(self, prompts: list[list[str]], new_tokens: int, beams: int) -> list[list[int]]:
        results = self._model.generate_batch(
            prompts,
            beam_size=beams,
            end_token=[],
            max_length=new_tokens,
            include_prompt_in_result=False,  # reads the prompt in one step
        )
        return [list(result.sequences_ids[0]) for result in results]

    def _translate(self, prompts: list[list[str]], new_tokens: int, beams: int) -> list[list[int]]:
        results = self._model.translate_batch(
            prompts,
            beam_size=beams,
            end_token=[],
            max_decoding_length=new_tokens,
            min_decoding_length=0,
        )
        return [[int(token) for token in result.hypotheses[0]] for result in results]
