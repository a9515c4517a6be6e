"""llama.cpp through the C functions that llama-cpp-python binds.

Its class ``Llama`` is not used: it has neither batches of prompts nor T5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp as lib

QUIET = lib.llama_log_callback(lambda *_: None)


class Peer:
    """A GGUF model and one context, in which every prompt is a sequence of its own.

    No token ends a text: the loop below is all there is.
    """

    PACKAGES = ("llama-cpp-python", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        shapes = job["workload"]["shapes"]
        rows = max(shape["rows"] for shape in shapes)
        prompt = max(shape["prompt"] for shape in shapes)
        lib.llama_log_set(QUIET, None)
        lib.llama_backend_init()
        path = str(Path(job["model"]) / "model.gguf").encode()
        self._model = lib.llama_model_load_from_file(path, lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx = rows * max(shape["prompt"] + shape["new"] for shape in shapes)
        params.n_batch = params.n_ubatch = rows * prompt  # reads all prompts in one step
        params.n_seq_max = rows
        params.n_threads = params.n_threads_batch = job["threads"]
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp could not load {path.decode()}")
        self._batch = lib.llama_batch_init(rows * prompt, 0, 1)
        self._sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(self._sampler, lib.llama_sampler_init_greedy())

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the likeliest token, step by step."""
        if beams > 1:
            raise ValueError("llama.cpp has no beam search")
        lib.llama_memory_clear(lib.llama_get_memory(self._context), False)
        if lib.llama_model_has_encoder(self._model):
            self._run(lib.llama_encode, prompts, 0)
            prompts = [[lib.llama_model_decoder_start_token(self._model)] for _ in prompts]
        tokens = self._run(lib.llama_decode, prompts, 0)
        texts = [[token] for token in tokens]
        for position in range(len(prompts[0]), len(prompts[0]) + new_tokens - 1):
            tokens = self._run(lib.llama_decode, [[token] for token in tokens], position)
            for text, token in zip(texts, tokens, strict=True):
                text.append(token)
        return texts

    def _run(self, step: Any, prompts: list[list[int]], start: int) -> list[int]:
        """Read ``prompts`` from position ``start`` on; the likeliest next token of each."""
        batch, index = self._batch, 0
        for row, ids in enumerate(prompts):
            for position, token in enumerate(ids, start):
                batch.token[index] = token
                batch.pos[index] = position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = row
                batch.logits[index] = 0
                index += 1
            batch.logits[index - 1] = 1
        batch.n_tokens = index
        if status := step(self._context, batch):
            raise RuntimeError(f"llama.cpp gave up with status {status}")
        if step is lib.llama_encode:
            return []
        ends = range(len(prompts[0]) - 1, index, len(prompts[0]))
        return [lib.llama_sampler_sample(self._sampler, self._context, end) for end in ends]
