"""Compare an exported bundle with the PyTorch model that it was made from.

Random prompts of different lengths are read as one ragged batch and continued with random tokens.
The bundle runs through the runtime's decoder. PyTorch reads each text alone. The logits at the
end of the prompt and after each further token must agree. With an encoder, each text also has a
random source of a different length.
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
STEPS = 6  # decode steps after each prompt
TOLERANCE = 1e-4  # largest difference, as a share of the largest logit (of 1 if all are smaller)
CONDITION = 4  # allowed multiple of PyTorch's own rounding error, if that is larger


@dataclass(frozen=True)
class Reference:
    """Random texts and PyTorch's logits for them."""

    sources: list[list[int]]  # token ids for the encoder; empty without an encoder
    texts: list[list[int]]  # token ids of a prompt and STEPS further tokens
    logits: NDArray[np.floating[Any]]  # (texts, STEPS + 1, vocabulary)


@torch.no_grad()
def make_reference(
    model: PreTrainedModel, kind: Kind, dimensions: Dimensions, seed: int = 0
) -> Reference:
    """Return random texts that fit the model, and its logits at their last STEPS + 1 positions.

    Raises ``CheckpointError`` if the logits are not finite.
    """
    steps = min(STEPS, (dimensions.max_positions or STEPS + 1) - 1)
    longest = (dimensions.max_positions or max(PROMPT_LENGTHS) + steps) - steps
    rng = np.random.default_rng(seed)
    texts = [
        _random_ids(rng, model, dimensions.vocabulary, min(length, longest) + steps)
        for length in PROMPT_LENGTHS
    ]
    sources = []
    if "encoder" in ROLES[kind]:
        most = dimensions.max_positions or max(PROMPT_LENGTHS)
        sources = [
            _random_ids(rng, model, dimensions.prompt_vocabulary, min(length, most))
            for length in reversed(PROMPT_LENGTHS)
        ]
    logits = [
        _reference_logits(model, source, text)[-steps - 1 :]
        for source, text in zip_longest(sources, texts)
    ]
    stacked = torch.stack(logits)
    if not stacked.isfinite().all():
        raise CheckpointError(
            "PyTorch's logits for this checkpoint are not finite, so its weights are damaged: "
            "download or save the checkpoint again."
        )
    return Reference(sources, texts, stacked.numpy())


def _random_ids(
    rng: np.random.Generator, model: PreTrainedModel, vocabulary: int, count: int
) -> list[int]:
    """Return random token ids without padding, which some models do not count as a position."""
    ids = rng.integers(vocabulary, size=count)
    padding = getattr(model.config, "pad_token_id", None)
    if padding is not None:
        ids[ids == padding] = (padding + 1) % vocabulary
    found: list[int] = ids.tolist()
    return found


def _reference_logits(
    model: PreTrainedModel, source: list[int] | None, text: list[int]
) -> torch.Tensor:
    """Return PyTorch's logits, (length of the text, vocabulary)."""
    ids = torch.tensor([text])
    if source is None:
        output = model(ids)
    else:
        # Transformers' cache fails if the decoder has more layers than the encoder.
        output = model(torch.tensor([source]), decoder_input_ids=ids, use_cache=False)
    logits: torch.Tensor = output.logits[0]
    return logits


def verify(
    manifest: Manifest,
    folder: Path,
    reference: Reference,
    precise_reference: Callable[[], Reference],
) -> Verification:
    """Run the bundle in ``folder`` on the reference's texts, and compare the logits.

    Raises ``CheckpointError`` if the logits differ by more than TOLERANCE. Some models magnify
    rounding errors: a difference is accepted if PyTorch's own logits are about as far from
    ``precise_reference``, the reference in double precision.
    """
    logits = _logits(manifest, folder, reference)
    difference = float(np.abs(logits - reference.logits).max())
    largest = float(np.abs(reference.logits).max())
    # `not <=` instead of `>`, so that NaN is refused too.
    if not difference <= TOLERANCE * max(1.0, largest) and not _is_rounding(
        logits, reference, precise_reference()
    ):
        raise CheckpointError(
            f"The exported graph's logits differ from PyTorch's by {difference:.2e} (the largest "
            f"logit is {largest:.2e}), so no bundle was written: report this checkpoint."
        )
    return Verification(
        positions=reference.logits.shape[0] * reference.logits.shape[1],
        max_logit_difference=difference,
        max_logit=largest,
    )


def _is_rounding(logits: NDArray[np.float32], reference: Reference, precise: Reference) -> bool:
    """Return whether ``logits`` are about as close to ``precise`` as PyTorch's float32 logits."""
    error = np.abs(logits - precise.logits).max()
    own_error = np.abs(reference.logits - precise.logits).max()
    return bool(error <= CONDITION * own_error)


def _logits(manifest: Manifest, folder: Path, reference: Reference) -> NDArray[np.float32]:
    """Return the bundle's logits at the reference's positions.

    The sessions end with this function, so that a later error keeps no file of the bundle open.
    """
    steps = reference.logits.shape[1] - 1
    prompts = [text[: len(text) - steps] for text in reference.texts]
    engine = open_engine(manifest, folder, mapped=True)
    decoder = engine.decoder(reference.sources or prompts, max(map(len, reference.texts)))
    logits = [decoder.prefill(prompts).copy()]
    for i in range(-steps, 0):
        logits.append(decoder.decode([text[i] for text in reference.texts]).copy())
    return np.stack(logits, axis=1)
