"""ONNX Runtime with the whole generation in one graph, as its convert_generation makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Peer:
    """A graph with one node, which searches; its end of sequence is an id that no text has."""

    PACKAGES = ("onnxruntime", "numpy")

    def __init__(self, job: dict[str, Any]) -> None:
        self._folder = Path(job["model"])
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = job["threads"]
        self._repeats_prompt = not job["workload"]["is_encoder_decoder"]
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._session(job["workload"]["shapes"][0]["beams"])

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Ids of the best text after each prompt."""
        before = len(prompts[0]) if self._repeats_prompt else 1  # T5's texts have a start token
        feeds = {
            "input_ids": np.array(prompts, np.int32),
            "max_length": np.array([before + new_tokens], np.int32),
            "min_length": np.zeros(1, np.int32),  # more would suppress the end of sequence
            "num_beams": np.array([beams], np.int32),
            "num_return_sequences": np.ones(1, np.int32),
            "length_penalty": np.ones(1, np.float32),
            "repetition_penalty": np.ones(1, np.float32),
        }
        session = self._session(beams)
        inputs = {value.name for value in session.get_inputs()}
        feeds = {name: value for name, value in feeds.items() if name in inputs}
        texts = session.run(["sequences"], feeds)[0]
        return texts.reshape(len(prompts), -1)[:, before:].tolist()

    def _session(self, beams: int) -> onnxruntime.InferenceSession:
        """The graph for that many beams, loaded with the first call that needs it."""
        name = "beam.onnx" if beams > 1 else "greedy.onnx"
        if not (self._folder / name).exists():  # T5 has no graph for greedy search
            name = "beam.onnx"
        if name not in self._sessions:
            graph = self._folder / name
            self._sessions[name] = onnxruntime.InferenceSession(graph, self._options)
        return self._sessions[name]
