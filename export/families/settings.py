"""Checks of a checkpoint's configuration, and the sizes in it, that the families share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers.activations import ACT2FN

from ...runtime.bundle.manifest import Dimensions
from ...runtime.errors import CheckpointError
from ..graphs.attention import padded_head_size


def check_sizes(config: Any, names: Sequence[str]) -> None:
    """Raise ``CheckpointError`` for a size that is not a positive integer."""
    for name in names:
        if type(size := getattr(config, name)) is not int or size < 1:
            raise CheckpointError(
                f"The configuration's {name} is {size!r}; it must be a positive integer."
            )


def check_divisible(config: Any, size: str, parts: str) -> None:
    """Raise ``CheckpointError`` if a size is not a multiple of the number of its parts."""
    if getattr(config, size) % getattr(config, parts):
        raise CheckpointError(
            f"The configuration's {size} is {getattr(config, size)}; it must be a multiple of "
            f"{parts} ({getattr(config, parts)})."
        )


def check_number(config: Any, name: str) -> None:
    """Raise ``CheckpointError`` for a setting that is not a positive floating-point number."""
    value = getattr(config, name)
    if type(value) is not float or not 0 < value < math.inf:
        raise CheckpointError(
            f"The configuration's {name} is {value!r}; it must be a positive floating-point number."
        )


def check_activation(name: Any) -> None:
    """Raise ``CheckpointError`` for an activation that is unknown or has weights."""
    if str(name) not in ACT2FN:
        raise CheckpointError(
            f"The configuration's activation is {name!r}; it must be one of Transformers' "
            "activations, such as 'gelu_new'."
        )
    if next(ACT2FN[name].parameters(), None) is not None:
        raise CheckpointError(
            f"The activation {name!r} has weights, which cannot be exported: use a checkpoint with "
            "another activation, such as 'gelu_new'."
        )


def sizes_of(
    *, features: int, heads: int, layers: int, vocabulary: int, positions: int
) -> Dimensions:
    """Return the sizes of a decoder whose heads share ``features`` equally."""
    head_size = features // heads
    return Dimensions(
        layers=layers,
        heads=heads,
        head_size=head_size,
        stored_head_size=padded_head_size(head_size),
        vocabulary=vocabulary,
        max_positions=positions,
    )
