"""linguonnx: the decoder of its translation models, which reads and writes token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from linguonnx.translate.decode import GenerationConfig, Seq2SeqDecoder
from onnxruntime import InferenceSession, SessionOptions

GRAPHS = ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx")


class Peer:
    """The decoder on sessions with the number of threads that is asked for.

    Its own ``load_translator`` makes the same objects, but only for models of its list, and leaves
    the number of threads to ONNX Runtime.
    """

    PACKAGES = ("linguonnx", "onnxruntime", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        folder = Path(job["model"])
        config = json.loads((folder / "config.json").read_text())
        options = SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = job["threads"]
        self._decoder = Seq2SeqDecoder(
            *(InferenceSession(folder / name, options) for name in GRAPHS),
            eos_id=-1,  # no token ends a text
            pad_id=config["pad_token_id"],
            decoder_start_id=config["decoder_start_token_id"],
        )

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text for each prompt, one prompt after the other."""
        config = GenerationConfig(max_new_tokens=new_tokens, num_beams=beams)
        return [self._decoder.generate(ids, config=config) for ids in prompts]
