"""Comparing an exported bundle with the PyTorch model it was made from.

Random prompts of different lengths are read as one ragged batch and continued with random tokens,
through the very decoder that users run; PyTorch reads each text alone. The texts' logits at the end
of the prompt and after each further token must agree. With an encoder each text has a random source
besides, of another length than its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ..runtime.bundle.manifest import ROLES, Dimensions, Kind, Manifest, Verification
from ..runtime.errors import CheckpointError
from ..runtime.ort.engine import open_engine

PROMPT_LENGTHS = (1, 5, 18, 64)
STEPS = 6
TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller
CONDITION = 4  # how many times PyTorch's own rounding error is let pass where it is larger


@dataclass(frozen=True)
class Reference:
    """Random texts and what PyTorch says of them."""

    sources: list[list[int]]  # what an encoder reads; a decoder of its own reads none
    texts: list[list[int]]  # a prompt and STEPS further tokens
    logits: NDArray[np.floating[Any]]  # (texts, STEPS + 1, vocabulary)


@torch.no_grad()
def make_reference(
    model: PreTrainedModel, kind: Kind, dimensions: Dimensions, seed: int = 0
) -> Reference:
    """Random texts that fit the model, and its logits at their last STEPS + 1 positions."""
    steps = min(STEPS, (dimensions.max_positions or STEPS + 1) - 1)
    longest = (dimensions.max_positions or max(PROMPT_LENGTHS) + steps) - steps
    rng = np.random.default_rng(seed)
    texts = [
        rng.integers(dimensions.vocabulary, size=min(length, longest) + steps).tolist()
        for length in PROMPT_LENGTHS
    ]
    sources = []
    if "encoder" in ROLES[kind]:
        lengths = reversed(PROMPT_LENGTHS)
        sources = [rng.integers(dimensions.vocabulary, size=n).tolist() for n in lengths]
    logits = [
        _reference_logits(model, source, text)[-steps - 1 :]
        for source, text in zip_longest(sources, texts)
    ]
    stacked = torch.stack(logits)
    if not stacked.isfinite().all():
        raise CheckpointError("PyTorch's own logits are not finite: the weights are damaged.")
    return Reference(sources, texts, stacked.numpy())


def _reference_logits(
    model: PreTrainedModel, source: list[int] | None, text: list[int]
) -> torch.Tensor:
    """(length of the text, vocabulary)."""
    ids = torch.tensor([text])
    if source is None:
        output = model(ids)
    else:
        # Without a cache: Transformers' own fails where the decoder has more layers.
        output = model(torch.tensor([source]), decoder_input_ids=ids, use_cache=False)
    logits: torch.Tensor = output.logits[0]
    return logits


def verify(
    manifest: Manifest,
    folder: Path,
    reference: Reference,
    precise_reference: Callable[[], Reference],
) -> Verification:
    """Run the bundle in ``folder`` on the reference's texts.

    Raises ``CheckpointError`` where the logits differ by more than TOLERANCE, unless the model
    magnifies rounding errors so much that PyTorch's own logits are about as far from
    ``precise_reference``, the same in double precision.
    """
    logits = _logits(manifest, folder, reference)
    difference = float(np.abs(logits - reference.logits).max())
    largest = float(np.abs(reference.logits).max())
    # Not `>`: a difference that is not a number is refused too.
    if not difference <= TOLERANCE * max(1.0, largest) and not _is_rounding(
        logits, reference, precise_reference()
    ):
        raise CheckpointError(
            f"The exported graph's logits differ from PyTorch's by {difference:.2e} (the largest "
            f"logit is {largest:.2e}): nothing was written, please report this checkpoint."
        )
    return Verification(
        positions=reference.logits.shape[0] * reference.logits.shape[1],
        max_logit_difference=difference,
        max_logit=largest,
    )


def _is_rounding(logits: NDArray[np.float32], reference: Reference, precise: Reference) -> bool:
    """Whether ``logits`` are about as near to the precise ones as PyTorch's in float32 are."""
    error = np.abs(logits - precise.logits).max()
    own_error = np.abs(reference.logits - precise.logits).max()
    return bool(error <= CONDITION * own_error)


def _logits(manifest: Manifest, folder: Path, reference: Reference) -> NDArray[np.float32]:
    """The bundle's logits where the reference has them.

    Sessions end with this function: an error raised after it holds no file of the bundle open.
    """
    steps = reference.logits.shape[1] - 1
    prompts = [text[: len(text) - steps] for text in reference.texts]
    engine = open_engine(manifest, folder)
    decoder = engine.decoder(reference.sources or prompts, max(map(len, reference.texts)))
    logits = [decoder.prefill(prompts).copy()]
    for i in range(-steps, 0):
        logits.append(decoder.decode([text[i] for text in reference.texts]).copy())
    return np.stack(logits, axis=1)
