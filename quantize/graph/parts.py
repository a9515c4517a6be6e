"""Run a graph part by part, so that only the activations between two parts are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

Values = dict[str, NDArray[Any]]  # tensors by name


@dataclass(frozen=True)
class Part:
    """A part of a graph: the nodes, by index, that compute some tensors from earlier parts."""

    nodes: Sequence[int]
    wanted: Sequence[str]  # tensors that it was made for
    carried: Sequence[str]  # tensors that later parts read, of this part and of earlier ones


def parts(graph: onnx.GraphProto, wanted: Sequence[Sequence[str]]) -> list[Part]:
    """Return a part for each group of tensors ``wanted``; each node is in at most one part."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    reads = [list(_read_by(node)) for node in graph.node]
    groups, done = [], set[int]()
    for names in wanted:
        nodes, left = set[int](), [maker[name] for name in names if name in maker]
        while left:
            node = left.pop()
            if node not in nodes and node not in done:
                nodes.add(node)
                left += [maker[name] for name in reads[node] if name in maker]
        done |= nodes
        groups.append(sorted(nodes))
    found: list[Part] = []
    later = set[str]()
    for nodes_of, names in zip(reversed(groups), reversed(list(wanted)), strict=True):
        own = {name for i in nodes_of for name in graph.node[i].output if name}
        found.append(Part(nodes_of, names, sorted(name for name in later if name in maker)))
        later = (later | {name for i in nodes_of for name in reads[i]} | {*names}) - own
    return found[::-1]


def part_model(model: onnx.ModelProto, part: Part, given: Mapping[str, NDArray[Any]]) -> bytes:
    """Return ``part`` as a model; ``given``: values of earlier parts, for their types."""
    graph = model.graph
    nodes = [graph.node[i] for i in part.nodes]
    own = {name for node in nodes for name in node.output if name}
    read = {name for node in nodes for name in _read_by(node)} - own
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for field in (made.graph.node, made.graph.initializer, made.graph.value_info):
        del field[:]
    for field in (made.graph.input, made.graph.output):
        del field[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    made.graph.input.extend(value for value in graph.input if value.name in read)
    carried = given.keys() - {value.name for value in graph.input}
    for name in sorted(read & carried):
        kind = onnx.helper.np_dtype_to_tensor_dtype(given[name].dtype)
        made.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
    names = dict.fromkeys([*part.wanted, *part.carried])
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name in own)
    data: bytes = made.SerializeToString()
    return data


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node and the bodies of its loops read."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read_by(inner)
