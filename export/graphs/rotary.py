"""Rotary positions (RoPE, arXiv 2104.09864) in plain operators, for head sizes without a kernel."""

from __future__ import annotations

import torch


def rotate(qkv: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return ``qkv`` with rotated queries and keys.

    ``qkv``: (rows, n, 3 * heads * head_size); ``cos`` and ``sin``: (rows, n, 1, 1, width).
    The first ``2 * width`` features of a head are rotated: feature i makes a pair with feature
    i + width, as in GPT-NeoX.
    """
    width = cos.shape[-1]
    parts = qkv.unflatten(2, (3, heads, -1))
    first, second, rest = parts[..., :width], parts[..., width : 2 * width], parts[..., 2 * width :]
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
    return torch.cat([rotated[:, :, :2], parts[:, :, 2:]], dim=2).flatten(2)
