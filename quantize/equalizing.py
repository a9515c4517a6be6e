"""Bringing the channels of the cache to one range, so that a single scale serves all of them.

Scores are sums of query times key over channels: what a key's channel is divided by, the query's is
multiplied with. What a value's channel is divided by, the rows of the output layer's weight are
multiplied with. Both are done to the weights, before rounding: the model stays the same, the cache
needs one scale a layer (ONNX Runtime is slower with one a channel), and the output layer's inputs
are smoother.
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
LEAST_RANGE = 1e-3  # of a channel, as a share of the largest
PAST_KEY, PAST_VALUE = 3, 4  # inputs of GroupQueryAttention


@dataclass(frozen=True)
class Equalized:
    """What became of a decoder whose weights were changed in place."""

    peaks: Mapping[str, float]  # by "0.key": the largest magnitude of the cache now
    divided: Mapping[str, Vector]  # inputs of layers, and what their channels are divided by now


def equalize(network: Network, peaks: Mapping[str, Vector]) -> Equalized:
    """Change the weights around every cached attention of a decoder.

    ``peaks``: by ``"0.key"``, the largest magnitudes in the cache, (heads, head_size).
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
    """The common range of all channels, and what each is to be divided by to reach it."""
    flat = peak.reshape(-1)
    used = flat > 0  # padding of the head size, and channels that never moved, are left alone
    if not used.any():
        return 1.0, np.ones_like(flat)
    floored = np.maximum(flat, LEAST_RANGE * flat.max())  # it may move more in another text
    common = float(np.exp(np.log(floored[used]).mean()))
    return common, np.where(used, floored / np.float32(common), np.float32(1)).astype(np.float32)


def _qkv_weights(
    attention: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], network: Network
) -> list[str]:
    """The weight and, if there is one, the bias of the layer that makes queries, keys, values."""
    names: list[str] = []
    node = made_by[attention.input[0]]
    while True:
        names += [name for name in node.input if name in network.weights]
        if node.op_type in PRODUCTS:
            return names
        node = made_by[node.input[0]]


def _output_layer(tensor: str, network: Network) -> tuple[str, str]:
    """``(its input, its weight)``: the layer that reads an attention's output."""
    readers = {name: node for node in network.graph.node for name in node.input[:1]}
    node = readers[tensor]
    while node.op_type not in PRODUCTS:
        node = readers[node.output[0]]
    return node.input[0], node.input[1]
