"""edgeseq, through its public functions."""

from __future__ import annotations

from typing import Any

from edgeseq.runtime import load


class Peer:
    """A bundle, with everything that ends or changes a text switched off."""

    PACKAGES = ("edgeseq", "onnxruntime", "numpy", "tokenizers")

    def __init__(self, job: dict[str, Any]) -> None:
        form = job["format"]
        self._model = load(
            job["model"],
            threads=job["threads"],
            kv_cache="float32" if form.endswith("float32-cache") else None,
            prepack=form.endswith("prepacked"),
        )

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text after each prompt."""
        results = self._model.generate_ids(
            prompts,
            max_new_tokens=new_tokens,
            num_beams=beams,
            do_sample=False,
            eos_token_id=None,
        )
        return [list(result.token_ids) for result in results]
