"""Comparing an exported bundle with the PyTorch model it was made from.

Random prompts of different lengths are read as one ragged batch and continued with random tokens,
through the very decoder that users run; PyTorch reads each text alone. The texts' logits at the end
of the prompt and after each further token must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from edgeseq.runtime.errors import CheckpointError
from edgeseq.runtime.manifest import Dimensions, Manifest, Verification
from edgeseq.runtime.memory import CpuMemory
from edgeseq.runtime.onnx_decoder import OnnxDecoder
from edgeseq.runtime.onnx_runtime import open_session

PROMPT_LENGTHS = (1, 5, 18, 64)
STEPS = 6
TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller


@dataclass(frozen=True)
class Reference:
    """Random texts and what PyTorch says of them."""

    texts: list[list[int]]  # a prompt and STEPS further tokens
    logits: NDArray[np.float32]  # (texts, STEPS + 1, vocabulary)


@torch.no_grad()
def make_reference(model: PreTrainedModel, dimensions: Dimensions, seed: int = 0) -> Reference:
    """Random texts that fit the model, and its logits at their last STEPS + 1 positions."""
    steps = min(STEPS, (dimensions.max_positions or STEPS + 1) - 1)
    longest = (dimensions.max_positions or max(PROMPT_LENGTHS) + steps) - steps
    rng = np.random.default_rng(seed)
    texts = [
        rng.integers(dimensions.vocabulary, size=min(length, longest) + steps).tolist()
        for length in PROMPT_LENGTHS
    ]
    logits = [model(torch.tensor([text])).logits[0, -steps - 1 :] for text in texts]
    stacked = torch.stack(logits)
    if not stacked.isfinite().all():
        raise CheckpointError("PyTorch's own logits are not finite: the weights are damaged.")
    return Reference(texts, stacked.numpy())


def verify(manifest: Manifest, folder: Path, reference: Reference) -> Verification:
    """Run the bundle in ``folder`` on the reference's texts.

    Raises ``CheckpointError`` where the logits differ by more than TOLERANCE.
    """
    logits = _logits(manifest, folder, reference)
    difference = float(np.abs(logits - reference.logits).max())
    largest = float(np.abs(reference.logits).max())
    if not difference <= TOLERANCE * max(1.0, largest):  # also when it is not a number
        raise CheckpointError(
            f"The exported graph's logits differ from PyTorch's by {difference:.2e} (the largest "
            f"logit is {largest:.2e}): nothing was written, please report this checkpoint."
        )
    return Verification(
        positions=reference.logits.shape[0] * reference.logits.shape[1],
        max_logit_difference=difference,
        max_logit=largest,
    )


def _logits(manifest: Manifest, folder: Path, reference: Reference) -> NDArray[np.float32]:
    """The bundle's logits where the reference has them.

    The session ends with this function: an error raised after it holds no file of the bundle open.
    """
    steps = reference.logits.shape[1] - 1
    prompts = [text[: len(text) - steps] for text in reference.texts]
    session = open_session(folder / manifest.graphs["decoder"], "cpu", None)
    capacity = max(map(len, reference.texts))
    decoder = OnnxDecoder(session, manifest, CpuMemory(), len(prompts), capacity)
    logits = [decoder.prefill(prompts).copy()]
    for i in range(-steps, 0):
        logits.append(decoder.decode([text[i] for text in reference.texts]).copy())
    return np.stack(logits, axis=1)
