"""Damage to the nodes, tensors and shapes of a bundle's graphs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import onnx
from onnx import helper

from edgeseq.runtime.bundle.initializers import all_nodes

from . import Mutation

NUMBERS = (
    *(0, 1, -1, 2, 3, 5, 7, 8, 16, 64, 127, 128, 4096, 10**6, 2**31 - 1, 2**31, 2**32, 2**40),
    *(2**62, 2**63 - 1, -2, -7, -(2**31), -(2**63)),
)
FLOATS = (0.0, -1.0, 1e38, 1e-45, float("nan"), float("inf"), -float("inf"))
PIPE = "a-pipe"
LOCATIONS = (
    *("../outside.bin", "/etc/passwd", "/dev/zero", "/dev/null", "no-such-file", "", "."),
    *("weights.bin/../../outside.bin", "decoder.onnx", "edgeseq.json", "./weights.bin", "x" * 5000),
    *("*/_ORT_MEM_ADDR_/*", PIPE),
)


class Edited:
    """One of a bundle's graphs, to be changed and written."""

    def __init__(self, folder: Path, rng: Random) -> None:
        paths = sorted(folder.glob("*.onnx"))
        self.path = rng.choice(paths)
        self.model = onnx.load(self.path, load_external_data=False)
        self.graph = self.model.graph
        bodies = [node for function in self.model.functions for node in function.node]
        self.nodes = [*all_nodes(self.graph), *bodies]

    def save(self) -> None:
        """Write the graph, which no checker sees."""
        self.path.write_bytes(self.model.SerializeToString())

    def external(self, rng: Random) -> onnx.TensorProto:
        """Return an initializer that lies in the weights file."""
        external = [tensor for tensor in self.graph.initializer if tensor.external_data]
        found: onnx.TensorProto = rng.choice(external)
        return found


def _names(edited: Edited) -> list[str]:
    graph = edited.graph
    made = [name for node in graph.node for name in node.output if name]
    given = [value.name for value in graph.input]
    return [*made, *given, *(tensor.name for tensor in graph.initializer)]


def _attribute(folder: Path, rng: Random) -> str:
    edited = Edited(folder, rng)
    node = rng.choice([node for node in edited.nodes if node.attribute])
    attribute = rng.choice(list(node.attribute))
    change = rng.choice(["value", "value", "value", "removed", "type", "name"])
    match change:
        case "removed":
            node.attribute.remove(attribute)
        case "type":
            changed = rng.choice([1, 0.5, "text", [1, 2], [0.5], ["a"]])
            attribute.CopyFrom(helper.make_attribute(attribute.name, changed))
        case "name":
            attribute.name = rng.choice(["axis", "K", "to", "x" * 1000, ""])
        case _:
            _change_value(attribute, rng)
    edited.save()
    return f"{edited.path.name}: {node.op_type}.{attribute.name}: {change} {_shown(attribute)}"


def _change_value(attribute: onnx.AttributeProto, rng: Random) -> None:
    kinds = onnx.AttributeProto
    match attribute.type:
        case kinds.INT:
            attribute.i = rng.choice([*NUMBERS, -attribute.i, _fits(attribute.i * 3)])
        case kinds.FLOAT:
            attribute.f = rng.choice(FLOATS)
        case kinds.STRING:
            attribute.s = rng.choice([b"", b"\xff\xfe", b"x" * 5000, b"none"])
        case kinds.INTS:
            for i in range(len(attribute.ints)):
                attribute.ints[i] = rng.choice(NUMBERS)
            attribute.ints.extend(rng.choices(NUMBERS, k=rng.choice([0, 1, 20])))
        case kinds.TENSOR:
            attribute.t.dims[:] = rng.choices(NUMBERS, k=rng.choice([0, 1, 2]))
        case kinds.GRAPH:
            del attribute.g.node[:]


def _fits(number: int) -> int:
    return max(-(2**63), min(number, 2**63 - 1))


def _shown(value: Any) -> str:
    return " ".join(str(value).split())[:60]


def _wire(folder: Path, rng: Random) -> str:
    """Give a node another input: often a cycle."""
    edited = Edited(folder, rng)
    node = rng.choice(list(edited.graph.node))
    change = rng.choice(["other", "other", "own output", "none", "more", "fewer", "unknown"])
    place = rng.randrange(max(1, len(node.input)))
    match change:
        case "more":
            node.input.extend(rng.choices(_names(edited), k=rng.choice([1, 30])))
        case "fewer":
            del node.input[place:]
        case _ if node.input:
            own = node.output[0]
            node.input[place] = {"own output": own, "none": "", "unknown": "nothing"}.get(
                change, rng.choice(_names(edited))
            )
    edited.save()
    return f"{edited.path.name}: {node.op_type} input {place}: {change}"


def _wire_out(folder: Path, rng: Random) -> str:
    edited = Edited(folder, rng)
    graph = edited.graph
    change = rng.choice(["removed", "repeated", "moved", "output name", "fewer outputs"])
    at = rng.randrange(len(graph.node))
    node = graph.node[at]
    shown = f"{edited.path.name}: {node.op_type} {change}"
    match change:
        case "removed":
            del graph.node[at]
        case "repeated":
            graph.node.add().CopyFrom(node)
        case "moved":
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            del graph.node[at]
            graph.node.insert(rng.randrange(len(graph.node)), copy)
        case "output name":
            node.output[0] = rng.choice(_names(edited))
        case _:
            del node.output[rng.randrange(len(node.output)) :]
    edited.save()
    return shown


def _operator(folder: Path, rng: Random) -> str:
    edited = Edited(folder, rng)
    node = rng.choice(edited.nodes)
    others: Sequence[tuple[str, str]] = [
        *((other.domain, other.op_type) for other in edited.nodes),
        *(("", name) for name in ("Loop", "If", "Expand", "Tile", "ConstantOfShape", "Scan")),
        *(("", name) for name in ("Resize", "NonZero", "RandomNormalLike", "Gather", "Unknown")),
        *(
            ("", name)
            for name in ("SequenceAt", "StringNormalizer", "Range", "EyeLike", "GridSample")
        ),
        *(("com.microsoft", name) for name in ("BeamSearch", "GreedySearch", "MatMulNBits")),
        *(("com.microsoft", name) for name in ("GatherBlockQuantized", "MultiHeadAttention")),
        *(("com.microsoft", name) for name in ("GroupQueryAttention", "QAttention", "Tokenizer")),
        ("nobody.knows", "Thing"),
    ]
    before = node.op_type
    node.domain, node.op_type = rng.choice(others)
    edited.save()
    return f"{edited.path.name}: {before} becomes {node.op_type}"


def _shape(folder: Path, rng: Random) -> str:
    edited = Edited(folder, rng)
    graph = edited.graph
    value = rng.choice([*graph.input, *graph.output, *graph.value_info])
    kind = value.type.tensor_type
    change = rng.choice(["dimension", "rank", "type", "name"])
    match change:
        case "dimension" if kind.shape.dim:
            rng.choice(list(kind.shape.dim)).dim_value = rng.choice(NUMBERS)
        case "rank":
            kind.shape.dim.add().dim_value = rng.choice(NUMBERS)
        case "type":
            kind.elem_type = rng.randrange(25)
        case _:
            value.name = rng.choice(_names(edited))
    edited.save()
    return f"{edited.path.name}: {value.name}: {change}"


def _initializer(folder: Path, rng: Random) -> str:
    edited = Edited(folder, rng)
    tensor = rng.choice(list(edited.graph.initializer))
    change = rng.choice(["dimension", "rank", "type", "name", "data", "removed", "transposed"])
    shown = f"{edited.path.name}: {tensor.name}: {change}"
    match change:
        case "dimension" if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        case "rank":
            tensor.dims[:] = rng.choices(NUMBERS, k=rng.randrange(5))
        case "transposed":
            tensor.dims[:] = list(tensor.dims)[::-1]
        case "type":
            tensor.data_type = rng.randrange(25)
        case "name":
            tensor.name = rng.choice(_names(edited))
        case "removed":
            edited.graph.initializer.remove(tensor)
        case _:
            tensor.raw_data = rng.randbytes(rng.choice([0, 1, 8, 64, 1000]))
    edited.save()
    return shown


def _smaller_weight(folder: Path, rng: Random) -> str:
    """Change a weight and its place in the file alike, so that both agree."""
    edited = Edited(folder, rng)
    tensor = edited.external(rng)
    axis = rng.randrange(len(tensor.dims)) if tensor.dims else 0
    factor = rng.choice([0, 0.25, 0.5, 2])
    if tensor.dims:
        before = tensor.dims[axis]
        tensor.dims[axis] = int(before * factor)
    for entry in tensor.external_data:
        if entry.key == "length":
            entry.value = str(int(int(entry.value) * factor))
        if entry.key == "offset":
            entry.value = "0"
    edited.save()
    return f"{edited.path.name}: {tensor.name}: dimension {axis} times {factor}"


def _index(folder: Path, rng: Random) -> str:
    """Change the values of a small constant, such as indices, axes and shapes."""
    edited = Edited(folder, rng)
    small = [
        tensor
        for tensor in edited.graph.initializer
        if tensor.raw_data and tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    ]
    if not small:
        return _attribute(folder, rng)
    tensor = rng.choice(small)
    width = 8 if tensor.data_type == onnx.TensorProto.INT64 else 4
    limit = 2 ** (8 * width - 1)
    count = len(tensor.raw_data) // width
    numbers = [max(-limit, min(rng.choice(NUMBERS), limit - 1)) for _ in range(count)]
    tensor.raw_data = b"".join(n.to_bytes(width, "little", signed=True) for n in numbers)
    edited.save()
    return f"{edited.path.name}: {tensor.name} = {numbers[:4]}"


def _external(folder: Path, rng: Random) -> str:
    shutil.copy(folder / "weights.bin", folder.parent / "outside.bin")
    edited = Edited(folder, rng)
    tensor = edited.external(rng)
    size = (folder / "weights.bin").stat().st_size
    numbers: list[Any] = [*NUMBERS, size, size - 1, size + 1, size - 64, 4096 * 2**20]
    entry = rng.choice(list(tensor.external_data))
    if rng.random() < 0.3:
        numbers = [f"{number}{rng.choice(['x', '.5', '', ' '])}" for number in numbers]
    entry.value = rng.choice(LOCATIONS) if entry.key == "location" else str(rng.choice(numbers))
    if rng.random() < 0.1:
        entry.key = rng.choice(["", "offset", "length", "location", "checksum"])
    if entry.value == PIPE:
        os.mkfifo(folder / PIPE)
    edited.save()
    return f"{edited.path.name}: {tensor.name}: {entry.key} = {entry.value!r:.40}"


def _header(folder: Path, rng: Random) -> str:
    edited = Edited(folder, rng)
    model = edited.model
    change = rng.choice(
        ["opset", "version", "no opset", "functions", "recursion", "inputs", "outputs"]
    )
    match change:
        case "opset":
            rng.choice(list(model.opset_import)).version = rng.choice(NUMBERS)
        case "version":
            model.ir_version = rng.choice(NUMBERS)
        case "no opset":
            del model.opset_import[:]
        case "functions" if model.functions:
            del model.functions[rng.randrange(len(model.functions))]
        case "recursion" if model.functions:  # a function that calls itself
            function = rng.choice(list(model.functions))
            node = function.node.add(op_type=function.name, domain=function.domain)
            node.input.extend(function.input)
            node.output.extend(f"again.{name}" for name in function.output)
        case "outputs":
            del edited.graph.output[rng.randrange(len(edited.graph.output))]
        case _:
            del edited.graph.input[rng.randrange(len(edited.graph.input))]
    edited.save()
    return f"{edited.path.name}: {change}"


def _huge(folder: Path, rng: Random) -> str:
    """Add a node whose output is huge, or a loop that does not end."""
    edited = Edited(folder, rng)
    graph = edited.graph
    change = rng.choice(["expand", "loop", "range"])
    target = rng.choice([value.name for value in graph.input if "input_ids" in value.name])
    if change == "loop":
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["going"]),
                helper.make_node("Identity", ["x"], ["y"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
                helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
                helper.make_tensor_value_info("x", onnx.TensorProto.INT64, None),
            ],
            [
                helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, []),
                helper.make_tensor_value_info("y", onnx.TensorProto.INT64, None),
            ],
        )
        graph.initializer.append(helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True]))
        made = [helper.make_node("Loop", ["", "yes", target], ["made"], body=body)]
    elif change == "range":
        for name, value in {"begin": 0, "end": 2**40, "step": 1}.items():
            graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [], [value]))
        made = [helper.make_node("Range", ["begin", "end", "step"], ["made"])]
    else:
        sizes = helper.make_tensor("sizes", onnx.TensorProto.INT64, [2], [2**20, 2**20])
        graph.initializer.append(sizes)
        made = [helper.make_node("ConstantOfShape", ["sizes"], ["made"])]
    for node in reversed(made):
        graph.node.insert(0, node)
    for node in list(graph.node)[len(made) :]:
        for place, name in enumerate(node.input):
            if name == target:
                node.input[place] = "made"
    edited.save()
    return f"{edited.path.name}: {change} before {target}"


VALUES: dict[str, Mutation] = {
    "attributes": _attribute,
    "inputs of nodes": _wire,
    "outputs and order of nodes": _wire_out,
    "operators": _operator,
    "shapes of inputs and outputs": _shape,
    "shapes of weights": _initializer,
    "weights of other sizes": _smaller_weight,
    "constants": _index,
    "places in the weights file": _external,
    "versions and functions": _header,
    "huge tensors and endless loops": _huge,
}
