"""Bring all channels of the KV cache to one range, so that a single scale serves all of them.

A score is the sum of query times key over the channels. So each key channel is divided by a factor,
and the query channel is multiplied by the same factor. Each value channel is divided by a factor,
and the rows of the output layer's weight are multiplied by the same factor.

Only weights change, and they change before rounding, so that the model computes the same. The KV
cache then needs one scale per layer (ONNX Runtime is slower with one per channel). The inputs of
the output layer also become smoother.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .graph.attentions import Attention, Projection, attentions
from .graph.network import Network

Vector = NDArray[np.float32]
LEAST_RANGE = 1e-3  # lower limit of a channel's range, as a share of the largest range


@dataclass(frozen=True)
class Equalized:
    """The effect of equalizing a decoder, whose weights were changed in place."""

    peaks: Mapping[str, float]  # new largest magnitude in the KV cache, by "0.key"
    divided: Mapping[str, Vector]  # factors that divided a layer's input, by its name


def equalize(network: Network, peaks: Mapping[str, Vector]) -> Equalized:
    """Equalize the KV cache of a decoder: change the weights around each self-attention in place.

    ``peaks``: by ``"0.key"``, the largest magnitudes in the KV cache, (heads, stored_head_size);
    attentions without peaks stay as they are. The two channels of a rotary pair share a factor,
    because a rotation mixes them. Keys or values that a linear layer does not make alone keep their
    ranges.
    """
    ranges: dict[str, float] = {}
    divided: dict[str, Vector] = {}
    for attention in attentions(network):
        if attention.keys in peaks:
            columns: dict[str, Vector] = {}
            ranges[attention.keys] = _equalize_keys(network, attention, peaks, columns)
            ranges[attention.values] = _equalize_values(network, attention, peaks, columns, divided)
            for name, factors in columns.items():
                network.weights.scale_columns(name, factors)
    return Equalized(ranges, divided)


def _equalize_keys(
    network: Network,
    attention: Attention,
    peaks: Mapping[str, Vector],
    columns: dict[str, Vector],
) -> float:
    """Add the factors of queries and keys to ``columns``; return the keys' common range."""
    if attention.query is None or attention.key is None:
        return _largest(peaks[attention.keys])
    common, factors = _factors(attention.shared_by_pairs(peaks[attention.keys]))
    _multiply(columns, network, attention.query, attention.by_query(factors))
    _multiply(columns, network, attention.key, np.float32(1) / factors)
    return common


def _equalize_values(
    network: Network,
    attention: Attention,
    peaks: Mapping[str, Vector],
    columns: dict[str, Vector],
    divided: dict[str, Vector],
) -> float:
    """Add the factors of the values to ``columns``, and scale the output layer's rows."""
    if attention.value is None or attention.output is None:
        return _largest(peaks[attention.values])
    common, factors = _factors(peaks[attention.values])
    _multiply(columns, network, attention.value, np.float32(1) / factors)
    layer_input, weight = attention.output
    divided[layer_input] = attention.by_query(factors)
    network.weights.scale_rows(weight, divided[layer_input])
    return common


def _multiply(
    columns: dict[str, Vector], network: Network, layer: Projection, factors: Vector
) -> None:
    for name in layer.weights:
        if name not in columns:
            columns[name] = np.ones(network.weights.shape(name)[-1], np.float32)
        columns[name][layer.columns] *= factors


def _largest(peak: Vector) -> float:
    return float(peak.max()) or 1.0


def _factors(peak: Vector) -> tuple[float, Vector]:
    """Return the common range of all channels, and the factors to divide them by to reach it."""
    flat = peak.reshape(-1)
    used = flat > 0  # excludes padding of the head size and channels that stayed 0
    if not used.any():
        return 1.0, np.ones_like(flat)
    floored = np.maximum(flat, LEAST_RANGE * flat.max())  # other texts may have larger values
    common = float(np.exp(np.log(floored[used]).mean()))
    return common, np.where(used, floored / np.float32(common), np.float32(1)).astype(np.float32)
