"""Smoothing: move the range of activations into the weights of layers after a layer norm.

A token's activations, or a block of them, share one scale, so one channel with large values costs
all others resolution.
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
from .weight_storages import Storage

Floats = NDArray[np.float32]
NORMS = {
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
}
STRENGTHS = (0.0, 0.3, 0.5, 0.7)  # 0: none; 1: move the activations' whole range to the weights
WORTHWHILE = 0.7  # share of the error that must remain at most, if smoothing has a price
SEEN_OUTPUTS = 1024  # most outputs of a layer on which the error is measured
SMALLEST = 1e-5  # lower limit of a channel's range, as a share of the largest range


def smoothing_factors(
    network: Network, name: str, peaks: Floats, rows: Floats, storage: Storage
) -> Floats | None:
    """Return the factors that best divide the channels of the tensor ``name``.

    ``peaks``: (features,), largest magnitudes; ``rows``: (some tokens, features), a sample of the
    tensor; ``storage``: the weights' storage. None if no layer norm makes the tensor, if a weight
    that reads it has other readers, or if smoothing does not help.
    """
    layers, vectors = readers(network, name), norm_vectors(network, name)
    if not layers or not vectors:
        return None
    weights = [np.asarray(network.weights[layer]) for layer in layers]
    largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    tried = [_factors(peaks, largest, strength) for strength in STRENGTHS]
    folds = _folds(network, name, layers, vectors)
    if not folds:
        tried = [np.exp2(np.rint(np.log2(factors))) for factors in tried]
    weights = [weight[:, :: -(-weight.shape[1] // SEEN_OUTPUTS)] for weight in weights]
    exact = [rows @ weight for weight in weights]
    errors = [_error(weights, exact, rows, factors, storage) for factors in tried]
    # The price is a node, or less error compensation: factors that hardly help 4-bit blocks raised
    # the demo GPT-2's KL divergence by 5 %.
    if not folds or storage.block_size is not None:
        errors[0] *= WORTHWHILE
    best = int(np.argmin(errors))
    return None if best == 0 else tried[best]


def smooth(network: Network, name: str, factors: Floats) -> str:
    """Divide the channels of the tensor ``name`` by ``factors``, and multiply the layers' weights.

    If only layers read the tensor, the layer norm that makes it is changed. In a model that
    normalizes after its sub-layers, the next residual connection reads it too. Then a node is added
    that multiplies it for the layers alone. The factors are powers of two there, so that nothing is
    rounded. Returns the name of the tensor that the layers then read.
    """
    layers, vectors = readers(network, name), norm_vectors(network, name)
    divided = name
    if _folds(network, name, layers, vectors):
        for vector in vectors:
            network.weights[vector] = network.weights[vector] / factors
    else:
        divided = network.multiply_for_layers(name, f"{name}.smoothing", 1 / factors)
    for layer in layers:
        network.weights.scale_rows(layer, factors)
    return divided


def _folds(network: Network, name: str, layers: Sequence[str], vectors: Sequence[str]) -> bool:
    """Return whether the layer norm can be changed: only ``layers`` read what it makes."""
    alone = user_count(network, name) == len(layers)
    return alone and all(user_count(network, vector) == 1 for vector in vectors)


def readers(network: Network, name: str) -> list[str]:
    """Return the names of the weights of the layers that read a tensor.

    The list is empty if a table or a weight with several readers is among them.
    """
    indices = [i for i, node in enumerate(network.graph.node) if name in node.input]
    layers = [layer for i in indices if (layer := network.layers.get(i)) is not None]
    weights = [layer.weight for layer in layers]
    whole = not any(layer.is_table or layer.input != name for layer in layers)
    return weights if whole and all(user_count(network, w) == 1 for w in weights) else []


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


def _error(
    weights: Sequence[Floats],
    exact: Sequence[Floats],
    rows: Floats,
    factors: Floats,
    storage: Storage,
) -> float:
    """Return the squared error of the outputs on ``rows`` with rounded activations and weights."""
    coded = storage.rounded_inputs(rows / factors)
    total = 0.0
    for weight, outputs in zip(weights, exact, strict=True):
        codes = storage.round(weight * factors[:, None], None)
        assert codes is not None  # storages that round activations round weights
        total += float(np.square(coded @ codes.weight() - outputs).sum(dtype=np.float64))
    return total
