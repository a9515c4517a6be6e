"""The self-attentions of a decoder, with the linear layers around each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from .network import PRODUCTS, Network

Vector = NDArray[np.float32]

CACHE_PREFIX = "past_key_values."
PAST_KEY, PAST_VALUE, COSINES, SINES = 3, 4, 7, 8  # indices of GroupQueryAttention's inputs
ROTATING = {"Add", "Concat", "Gather", "Mul", "Reshape", "Shape", "Slice", "Sub", "Unsqueeze"}
PASSED = {"Reshape", "Identity", "Squeeze", "Unsqueeze"}  # operators that only change the shape


@dataclass(frozen=True)
class Projection:
    """The linear layer that makes the queries, the keys or the values."""

    weights: tuple[str, ...]  # names of the weight and of its biases
    columns: slice  # the layer's outputs that are meant; one layer may make all three


@dataclass(frozen=True)
class Attention:
    """A ``GroupQueryAttention`` node."""

    keys: str  # name in the KV cache: "0.key"
    values: str
    heads: int
    kv_heads: int
    query: Projection | None  # None: not made by a linear layer alone
    key: Projection | None
    value: Projection | None
    output: tuple[str, str] | None  # input and weight of the layer that reads the output
    is_rotary: bool  # whether the node, or nodes before it, rotate queries and keys
    rotated: int | None  # number of channels of a head that are rotated; None: unknown
    interleaved: bool  # whether a rotary pair is (2j, 2j + 1), and not (j, j + rotated / 2)

    def by_query(self, factors: Vector) -> Vector:
        """Return factors of key-value heads, (kv_heads * size,), for the query heads."""
        grouped = np.repeat(factors.reshape(self.kv_heads, 1, -1), self.heads // self.kv_heads, 1)
        return grouped.reshape(-1)

    def shared_by_pairs(self, peaks: Vector) -> Vector:
        """Return the keys' peaks, (heads, size), where a rotary pair has its larger peak.

        A rotation mixes the two channels of a pair. If the pairs are unknown, a head has one peak.
        """
        if not self.is_rotary:
            return peaks
        if self.rotated is None:
            return np.broadcast_to(peaks.max(axis=1, keepdims=True), peaks.shape)
        half = self.rotated // 2
        split, axis = ((-1, half, 2), 2) if self.interleaved else ((-1, 2, half), 1)
        shared = peaks.copy()
        pairs = shared[:, : self.rotated].reshape(split)
        pairs[:] = pairs.max(axis=axis, keepdims=True)
        shared[:, : self.rotated] = pairs.reshape(len(peaks), -1)
        return shared


def attentions(network: Network) -> Iterator[Attention]:
    """Yield the self-attentions with a KV cache."""
    makers = {name: node for node in network.graph.node for name in node.output if name}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in network.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in network.graph.node:
        if node.op_type != "GroupQueryAttention":
            continue
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        heads, kv_heads = numbers["num_heads"], numbers["kv_num_heads"]
        inputs = [name for name in node.input[:3] if name]
        is_rotary, rotated = bool(numbers.get("do_rotary")), _rotated(node, network)
        if len(inputs) == 1 and (plain := _plain_rotation(inputs[0], makers, network)):
            inputs, is_rotary, rotated = [plain[0]], True, plain[1]
        found = [_projection(name, makers, readers, network) for name in inputs]
        if len(found) == 1:
            found = list(_split(found[0], heads, kv_heads, network))
        query, key, value = found
        keys, values = (node.input[i].removeprefix(CACHE_PREFIX) for i in (PAST_KEY, PAST_VALUE))
        yield Attention(
            keys=keys,
            values=values,
            heads=heads,
            kv_heads=kv_heads,
            query=query,
            key=key,
            value=value,
            output=_output_layer(node.output[0], readers),
            is_rotary=is_rotary,
            rotated=rotated,
            interleaved=bool(numbers.get("rotary_interleaved")),
        )


def _projection(
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, list[onnx.NodeProto]],
    network: Network,
) -> Projection | None:
    names: list[str] = []
    while name in makers and len(readers[name]) == 1:
        node = makers[name]
        own = [weight for weight in node.input if weight in network.weights]
        if any(len(readers[weight]) > 1 for weight in own):
            return None
        names = [*own, *names]
        if node.op_type in PRODUCTS:
            return Projection(tuple(names), slice(None)) if own else None
        if node.op_type == "Add" and len(own) == 1:
            [name] = [other for other in node.input if other not in own]
        elif node.op_type in PASSED:
            name = node.input[0]
        else:
            return None
    return None


def _split(
    whole: Projection | None, heads: int, kv_heads: int, network: Network
) -> Iterator[Projection | None]:
    """Yield the parts of a layer that makes queries, keys and values."""
    if whole is None:
        yield from (None, None, None)
        return
    size = network.weights.shape(whole.weights[0])[-1] // (heads + 2 * kv_heads)
    ends = np.cumsum([heads * size, kv_heads * size, kv_heads * size]).tolist()
    for begin, end in zip([0, *ends], ends, strict=False):
        yield Projection(whole.weights, slice(begin, end))


def _output_layer(
    tensor: str, readers: Mapping[str, list[onnx.NodeProto]]
) -> tuple[str, str] | None:
    """Return input and weight of the layer that alone reads an attention's output ``tensor``."""
    while len(readers.get(tensor, ())) == 1:
        [node] = readers[tensor]
        if node.op_type in PRODUCTS:
            alone = node.input[0] == tensor and len(readers[node.input[1]]) == 1
            return (tensor, node.input[1]) if alone else None
        if node.op_type not in {*PASSED, "Gather"} or node.input[0] != tensor:
            return None  # Gather: the positions `logits_at`
        tensor = node.output[0]
    return None


def _rotated(node: onnx.NodeProto, network: Network) -> int | None:
    """Return how many channels of a head are rotated: twice the width of the cosines."""
    name = node.input[COSINES] if len(node.input) > COSINES else ""
    if name in network.weights:
        return 2 * network.weights.shape(name)[-1]
    widths = [tensor.dims[-1] for tensor in network.constants if tensor.name == name]
    for value in network.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name == name and dims and dims[-1].HasField("dim_value"):
            widths.append(dims[-1].dim_value)
    return 2 * widths[0] if widths else None


def _plain_rotation(
    tensor: str, makers: Mapping[str, onnx.NodeProto], network: Network
) -> tuple[str, int] | None:
    """Return the tensor that nodes rotate, and the number of rotated channels of a head.

    Export writes these nodes (``export/graphs/rotary.py``) for head sizes without a kernel. They
    rotate pairs (j, j + width), with cosines and sines of the shape (positions, 1, 1, width). None
    if other nodes make ``tensor``.
    """
    sources, tables, operators = set[str](), set[str](), list[str]()
    left, seen = [tensor], set[str]()
    while left:
        name = left.pop()
        if name not in makers or name in seen:
            continue
        seen.add(name)
        node = makers[name]
        weights = [own for own in node.input if own in network.weights]
        if node.op_type == "Gather" and weights:
            tables.update(weights)
        elif node.op_type in ROTATING and not weights:
            operators.append(node.op_type)
            left += node.input
        else:
            sources.add(name)
    shapes = {network.weights.shape(table)[1:] for table in tables}
    whole = len(sources) == len(shapes) == 1 and len(tables) == 2
    if not whole or operators.count("Add") != 1 or operators.count("Sub") != 1:
        return None
    [source], [(*ones, width)] = sources, shapes
    return (source, 2 * width) if ones == [1, 1] else None
