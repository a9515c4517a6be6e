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
        graphs = [Path(job["model"]) / name for name in ("greedy.onnx", "beam.onnx")]
        if job["workload"]["beams"] > 1 or not graphs[0].exists():  # there is none for T5
            graphs.reverse()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        self._session = onnxruntime.InferenceSession(graphs[0], options)
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._repeats_prompt = self._session.get_modelmeta().graph_name.startswith("gpt2")

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
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        texts = self._session.run(["sequences"], feeds)[0]
        return texts.reshape(len(prompts), -1)[:, before:].tolist()
