"""The weights of torch's layers under the names of a stack, in the form that the graphs read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...runtime.bundle.manifest import Dimensions
from ..graphs.attention import has_rotary_kernel, pad_heads
from .options import Names, Weights


def linear_weights(name: str, layer: Any) -> Weights:
    """Return weight, (inputs, outputs), and bias of a ``torch.nn.Linear``."""
    weights = {f"{name}.weight": layer.weight.T}
    return weights if layer.bias is None else weights | {f"{name}.bias": layer.bias}


def norm_weights(name: str, layer: Any) -> Weights:
    """Return weight and bias of a ``torch.nn.LayerNorm``: ones and zeros if it has none."""
    if layer.weight is None:
        size = layer.normalized_shape
        return {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}
    return {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}


def attention_weights(
    names: Names,
    number: int,
    projections: Sequence[Any],
    output: Any,
    head_size: int,
    *,
    interleaved: int = 0,
) -> Weights:
    """Return the weights of a decoder's self-attention, heads padded with zeros.

    ``projections``: the ``torch.nn.Linear`` layers for queries, keys and values; ``interleaved``:
    the number of rotated features of a head, if the model rotates neighbours as a pair.
    """
    qkv, out = names.qkv.format(number), names.output.format(number)
    packed = {f"{qkv}.weight": torch.cat([layer.weight.T for layer in projections], dim=1)}
    if projections[0].bias is not None:
        packed[f"{qkv}.bias"] = torch.cat([layer.bias for layer in projections])
    weights = {}
    for name, weight in packed.items():
        ordered = _separate_pairs(weight, head_size, interleaved)
        weights[name] = pad_heads(ordered, -1, head_size)
    weights |= linear_weights(out, output)
    weights[f"{out}.weight"] = pad_heads(weights[f"{out}.weight"], 0, head_size)
    return weights


def _separate_pairs(packed: torch.Tensor, head_size: int, rotated: int) -> torch.Tensor:
    """Reorder queries and keys, so that the rotated pairs lie as in GPT-NeoX.

    Pairs (0, 1), (2, 3)... of a head become (0, width), (1, 1 + width)..., where ``width`` is half
    of ``rotated``. The scores stay the same, because queries and keys have the same order.
    """
    order = [*range(0, rotated, 2), *range(1, rotated, 2), *range(rotated, head_size)]
    query, key, value = packed.chunk(3, dim=-1)
    ordered = [part.unflatten(-1, (-1, head_size))[..., order].flatten(-2) for part in (query, key)]
    return torch.cat([*ordered, value], dim=-1)


def rotary_weights(
    names: Names, frequencies: torch.Tensor, factor: float, sizes: Dimensions
) -> Weights:
    """Return cosines and sines of all positions, as GPT-NeoX rotates queries and keys.

    ``frequencies``: (width,), in radians per position; ``factor``: a factor of all values. Their
    shape is (positions, width) if the attention's kernel rotates, else (positions, 1, 1, width).
    """
    assert sizes.max_positions is not None  # the table ends somewhere
    angles = torch.outer(torch.arange(sizes.max_positions).float(), frequencies)
    if not has_rotary_kernel(sizes.stored_head_size, len(frequencies)):
        angles = angles[:, None, None]
    return {names.cos: angles.cos() * factor, names.sin: angles.sin() * factor}


def head_weights(names: Names, lm_head: Any, table: torch.Tensor) -> Weights:
    """Return the lm_head's weight, unless it is the embedding ``table``, and its bias, if any."""
    tied = lm_head.weight.data_ptr() == table.data_ptr()
    weights = {} if tied else {names.lm_head: lm_head.weight}
    return weights if lm_head.bias is None else weights | {names.logits_bias: lm_head.bias}
