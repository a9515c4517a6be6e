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
import onnx
from numpy.typing import NDArray

from .graph.network import PRODUCTS, Network

Vector = NDArray[np.float32]
CACHE_PREFIX = "past_key_values."
LEAST_RANGE = 1e-3  # lower limit of a channel's range, as a share of the largest range
PAST_KEY, PAST_VALUE = 3, 4  # indices of GroupQueryAttention's inputs


@dataclass(frozen=True)
class Equalized:
    """The effect of equalizing a decoder, whose weights were changed in place."""

    peaks: Mapping[str, float]  # new largest magnitude in the KV cache, by "0.key"
    divided: Mapping[str, Vector]  # factors that divided a layer's input, by its name


def equalize(network: Network, peaks: Mapping[str, Vector]) -> Equalized:
    """Equalize the KV cache of a decoder: change the weights around each self-attention in place.

    ``peaks``: by ``"0.key"``, the largest magnitudes in the KV cache, (heads, stored_head_size).
    """
    made_by = {name: node for node in network.graph.node for name in node.output if name}
    ranges: dict[str, float] = {}
    divided: dict[str, Vector] = {}
    for node in network.graph.node:
        if node.op_type != "GroupQueryAttention":
            continue
        keys, values = (node.input[i].removeprefix(CACHE_PREFIX) for i in (PAST_KEY, PAST_VALUE))
        ranges[keys], key_factors = _factors(peaks[keys])
        ranges[values], value_factors = _factors(peaks[values])
        for name in _qkv_weights(node, made_by, network):
            columns = np.concatenate([key_factors, 1 / key_factors, 1 / value_factors])
            network.weights[name] = network.weights[name] * columns
        layer_input, output = _output_layer(node.output[0], network)
        network.weights[output] = network.weights[output] * value_factors[:, None]
        divided[layer_input] = value_factors
    return Equalized(ranges, divided)


def _factors(peak: Vector) -> tuple[float, Vector]:
    """Return the common range of all channels, and the factors to divide them by to reach it."""
    flat = peak.reshape(-1)
    used = flat > 0  # excludes padding of the head size and channels that stayed 0
    if not used.any():
        return 1.0, np.ones_like(flat)
    floored = np.maximum(flat, LEAST_RANGE * flat.max())  # other texts may have larger values
    common = float(np.exp(np.log(floored[used]).mean()))
    return common, np.where(used, floored / np.float32(common), np.float32(1)).astype(np.float32)


def _qkv_weights(
    attention: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], network: Network
) -> list[str]:
    """Return the names of weight and bias (if any) of the layer for query, key and value."""
    names: list[str] = []
    node = made_by[attention.input[0]]
    while True:
        names += [name for name in node.input if name in network.weights]
        if node.op_type in PRODUCTS:
            return names
        node = made_by[node.input[0]]


def _output_layer(tensor: str, network: Network) -> tuple[str, str]:
    """Return the input and the weight of the layer that reads an attention's output ``tensor``."""
    readers = {name: node for node in network.graph.node for name in node.input[:1]}
    node = readers[tensor]
    while node.op_type not in PRODUCTS:
        node = readers[node.output[0]]
    return node.input[0], node.input[1]
