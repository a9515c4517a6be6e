"""Smoothing: move the range of activations into the weights of layers after a layer norm.

A token's activations share one scale, so one channel with large values costs all others resolution.
Smoothing divides each channel in the layer norm's weight and bias by a factor. It multiplies the
rows of the weights that read the channel by the same factor. The model computes the same
(SmoothQuant, arXiv 2211.10438).

Several strengths are tried, including none. The best one has the least error in the layers' outputs
on rows of a calibration text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .graph.network import Network
from .rounding import round_weight

Floats = NDArray[np.float32]
NORMS = {
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
}
STRENGTHS = (0.0, 0.3, 0.5, 0.7)  # 0: none; 1: move the activations' whole range to the weights
LARGEST_CODE = 127
SMALLEST = 1e-5  # lower limit of a channel's range, as a share of the largest range


def smooth(network: Network, name: str, peaks: Floats, rows: Floats, *, bits: int) -> Floats | None:
    """Smooth the tensor ``name`` if a layer norm makes it and only layers read it.

    ``peaks``: (features,), largest magnitudes; ``rows``: (some tokens, features), a sample of the
    tensor; ``bits``: bits of the weights. Changes the network's weights in place. Returns the
    factors that divide the channels, or None if smoothing does not apply or does not help.
    """
    layers, vectors = readers(network, name), norm_vectors(network, name)
    if not layers or not vectors or any(user_count(network, v) > 1 for v in vectors):
        return None
    weights = [np.asarray(network.weights[layer]) for layer in layers]
    largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    tried = [_factors(peaks, largest, strength) for strength in STRENGTHS]
    errors = [_error(weights, rows, factors, bits) for factors in tried]
    best = int(np.argmin(errors))
    if best == 0:
        return None
    factors = tried[best]
    for vector in vectors:
        network.weights[vector] = network.weights[vector] / factors
    for layer, weight in zip(layers, weights, strict=True):
        network.weights[layer] = weight * factors[:, None]
    return factors


def readers(network: Network, name: str) -> list[str]:
    """Return the names of the weights of the layers that read a tensor.

    The list is empty if other nodes read the tensor too, or if a weight has several readers.
    """
    indices = [i for i, node in enumerate(network.graph.node) if name in node.input]
    layers = [network.layers.get(i) for i in indices]
    found = [layer for layer in layers if layer is not None and not layer.is_table]
    weights = [layer.weight for layer in found]
    whole = len(found) == len(indices) and all(user_count(network, w) == 1 for w in weights)
    return weights if whole else []


def norm_vectors(network: Network, name: str) -> list[str]:
    """Return the names of weight and bias of the layer norm that makes a tensor; [] if none."""
    for node in network.graph.node:
        if node.op_type in NORMS and node.output[0] == name:
            skips = node.op_type.startswith("Skip")
            own = node.input[2:4] if skips else node.input[1:3]
            own = own[:1] if "Simplified" in node.op_type else own
            return [vector for vector in own if vector]
    return []


def user_count(network: Network, name: str) -> int:
    """Return how many nodes read a tensor."""
    return sum(name in node.input for node in network.graph.node)


def _factors(peaks: Floats, largest: Floats, strength: float) -> Floats:
    """Return ``peaks ** strength / largest ** (1 - strength)``, scaled to a geometric mean of 1.

    Channels whose activations or weights are all 0 get the factor 1.
    """
    if strength == 0:
        return np.ones_like(peaks)
    used = (peaks > 0) & (largest > 0)
    if not used.any():
        return np.ones_like(peaks)
    logs = strength * np.log(np.maximum(peaks, SMALLEST * peaks.max()))
    logs -= (1 - strength) * np.log(np.maximum(largest, SMALLEST * largest.max()))
    factors: Floats = np.exp(logs - logs[used].mean()).astype(np.float32)
    factors[~used] = 1
    return factors


def _error(weights: Sequence[Floats], rows: Floats, factors: Floats, bits: int) -> float:
    """Return the squared error of all outputs on ``rows`` with rounded activations and weights."""
    smoothed = rows / factors
    step = np.abs(smoothed).max(axis=1, keepdims=True) / LARGEST_CODE
    step[step == 0] = 1
    coded = np.rint(smoothed / step) * step
    total = 0.0
    for weight in weights:
        codes = round_weight(weight * factors[:, None], bits=bits, group_size=len(weight))
        total += float(np.square(coded @ codes.weight() - rows @ weight).sum(dtype=np.float64))
    return total
