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
    names: Names, number: int, projections: Sequence[Any], output: Any, head_size: int
) -> Weights:
    """Return the weights of a decoder's self-attention, heads padded with zeros.

    ``projections``: the ``torch.nn.Linear`` layers for queries, keys and values.
    """
    qkv, out = names.qkv.format(number), names.output.format(number)
    packed = torch.cat([layer.weight.T for layer in projections], dim=1)
    weights = {f"{qkv}.weight": pad_heads(packed, 1, head_size)}
    if projections[0].bias is not None:
        bias = torch.cat([layer.bias for layer in projections])
        weights[f"{qkv}.bias"] = pad_heads(bias, 0, head_size)
    weights |= linear_weights(out, output)
    weights[f"{out}.weight"] = pad_heads(weights[f"{out}.weight"], 0, head_size)
    return weights


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
