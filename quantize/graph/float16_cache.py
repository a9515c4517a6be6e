"""A decoder's graph with a KV cache of 16-bit floats, which CUDA runs.

CUDA's kernel of ``GroupQueryAttention`` takes only 16-bit queries, keys and values, and no bias of
the scores (source code of ONNX Runtime 1.28 to 1.32). So an attention without a bias gets casts
before and after it. An attention with a bias, such as T5's with its relative positions, is replaced
by standard ONNX operators. They scatter the new keys and values into the KV cache, in place if past
and present share memory. They compute softmax in 32 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...runtime.errors import BundleError
from .attentions import CACHE_PREFIX, COSINES, PAST_KEY, PAST_VALUE, SINES

QUERIES, LENGTHS, TOTAL, BIAS = 0, 5, 6, 10  # indices of GroupQueryAttention's inputs
FLOATS = (0, 1, 2, COSINES, SINES)  # inputs with floats that the kernel takes in 16 bits
LEAST = -1e30  # score of a masked position


def with_float16_cache(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` with a KV cache of 16-bit floats."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    writer = _Writer(changed)
    for node in model.graph.node:
        if node.op_type != "GroupQueryAttention":
            changed.graph.node.append(node)
        elif len(node.input) > BIAS and node.input[BIAS]:
            writer.attend(node)
        else:
            writer.cast_around(node)
    for value in (*changed.graph.input, *changed.graph.output):
        if value.name.startswith((CACHE_PREFIX, "present.")):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return changed


class _Writer:
    """A writer that appends nodes to a graph; nodes that all layers share are added once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._made: set[str] = set()

    def cast_around(self, node: onnx.NodeProto) -> None:
        """Append ``node`` over 16-bit floats, with casts from and to 32-bit floats."""
        half = onnx.NodeProto()
        half.CopyFrom(node)
        for i in FLOATS:
            if i < len(node.input) and node.input[i]:
                half.input[i] = self._half(node.input[i])
        half.output[0] = f"{node.output[0]}.half"
        self._graph.node.append(half)
        self._add("Cast", [half.output[0]], node.output[0], to=TensorProto.FLOAT)

    def attend(self, node: onnx.NodeProto) -> None:
        """Append standard ONNX operators that compute the same as ``node``."""
        name, heads = node.output[0], _attribute(node, "num_heads")
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        if (
            numbers["kv_num_heads"] != heads
            or numbers.get("do_rotary")
            or numbers.get("local_window_size", -1) > 0
            or any(node.input[1:3])
        ):
            raise BundleError(
                f"The attention {name!r} has a bias with rotary embeddings, a window, or separate "
                "or fewer keys, which CUDA's graph cannot have: use the recipe int8."
            )
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        self._graph.node.append(
            helper.make_node(
                "Split", [self._half(node.input[QUERIES])], parts, axis=-1, num_outputs=3
            )
        )
        query, key, value = (self._by_head(part, heads) for part in parts)
        places = self._places(node, key)
        pasts, presents = (node.input[PAST_KEY], node.input[PAST_VALUE]), node.output[1:3]
        keys, values = (
            self._read(node, self._add("ScatterElements", [past, places, new], present, axis=2))
            for past, new, present in zip(pasts, (key, value), presents, strict=True)
        )
        turned = self._add("Transpose", [keys], f"{name}.turned", perm=[0, 1, 3, 2])
        product = self._add("MatMul", [query, turned], f"{name}.product")
        scores = self._add("Cast", [product], f"{name}.scores", to=TensorProto.FLOAT)
        scale = self._constant(f"{name}.scale", np.float32(_attribute(node, "scale")))
        scaled = self._add("Mul", [scores, scale], f"{name}.scaled")
        biased = self._add("Add", [scaled, node.input[BIAS]], f"{name}.biased")
        least = self._constant("least", np.float32(LEAST))
        masked = self._add("Where", [self._allowed(node), biased, least], f"{name}.masked")
        shares = self._add("Softmax", [masked], f"{name}.shares", axis=-1)
        # Memory past a row's end may hold NaN, and a probability of 0 times NaN is NaN.
        nothing = self._constant("nothing", np.float16(0))
        filled = self._add("Where", [self._filled(node), values, nothing], f"{name}.filled")
        mixed = self._add("MatMul", [self._half(shares), filled], f"{name}.mixed")
        rows = self._add("Transpose", [mixed], f"{name}.rows", perm=[0, 2, 1, 3])
        shape = self._constant("attention.joined", np.array([0, 0, -1]))
        joined = self._add("Reshape", [rows, shape], f"{name}.half")
        self._add("Cast", [joined], name, to=TensorProto.FLOAT)

    def _half(self, name: str) -> str:
        if name.endswith(".half_input"):
            return name
        return self._once("Cast", [name], f"{name}.half_input", to=TensorProto.FLOAT16)

    def _by_head(self, name: str, heads: int) -> str:
        """Reshape (rows, tokens, features) to (rows, heads, tokens, head size)."""
        shape = self._constant("attention.split", np.array([0, 0, heads, -1]))
        split = self._add("Reshape", [name, shape], f"{name}.split")
        return self._add("Transpose", [split], f"{name}.by_head", perm=[0, 2, 1, 3])

    def _positions(self, node: onnx.NodeProto) -> str:
        """Return the position of each new token, (rows, 1, tokens, 1).

        Padding gets the positions after the row's tokens.
        """
        one, zero = self._constant("one", np.array([1])), self._constant("zero", np.array([0]))
        shape = self._once("Shape", ["input_ids"], "attention.tokens", start=1, end=2)
        count = self._once("Squeeze", [shape], "attention.count")
        first, step = self._constant("first", np.array(0)), self._constant("step", np.array(1))
        numbers = self._once("Range", [first, count, step], "attention.numbers")
        lengths = self._once("Cast", [node.input[LENGTHS]], "attention.last", to=TensorProto.INT64)
        ends = self._once("Add", [lengths, one], "attention.ends")
        past = self._once("Sub", [ends, shape], "attention.past")
        begin = self._once("Max", [past, zero], "attention.begin")  # at prefill a row may be padded
        column = self._once(
            "Unsqueeze", [begin, self._constant("column", np.array([1]))], "attention.column"
        )
        positions = self._once("Add", [column, numbers], "attention.positions")
        axes = self._constant("around", np.array([1, 3]))
        return self._once("Unsqueeze", [positions, axes], "attention.queries")

    def _places(self, node: onnx.NodeProto, key: str) -> str:
        """Return the cache position of each new element, (rows, heads, tokens, head size)."""
        shape = self._once("Shape", [key], "attention.key_shape")
        return self._once("Expand", [self._positions(node), shape], "attention.places")

    def _end(self, node: onnx.NodeProto) -> str:
        total = self._once("Cast", [node.input[TOTAL]], "attention.total", to=TensorProto.INT64)
        shape = self._constant("vector", np.array([1]))
        return self._once("Reshape", [total, shape], "attention.end")

    def _read(self, node: onnx.NodeProto, cache: str) -> str:
        """Return the filled positions of the cache."""
        zero, axis = self._constant("zero", np.array([0])), self._constant("axis", np.array([2]))
        return self._add("Slice", [cache, zero, self._end(node), axis], f"{cache}.read")

    def _keys(self, node: onnx.NodeProto) -> str:
        """Return the indices of the positions that are read, (positions,)."""
        end = self._once("Squeeze", [self._end(node)], "attention.stop")
        first, step = self._constant("first", np.array(0)), self._constant("step", np.array(1))
        return self._once("Range", [first, end, step], "attention.keys")

    def _allowed(self, node: onnx.NodeProto) -> str:
        """Return whether each query may read each position, (rows, 1, tokens, positions)."""
        keys, queries = self._keys(node), self._positions(node)
        return self._once("LessOrEqual", [keys, queries], "attention.allowed")

    def _filled(self, node: onnx.NodeProto) -> str:
        """Return whether each position has been written, (rows, 1, positions, 1)."""
        keys, after = self._keys(node), self._constant("after", np.array([1]))
        column = self._once("Unsqueeze", [keys, after], "attention.key_column")
        self._positions(node)  # adds attention.begin and attention.tokens
        end = self._once("Add", ["attention.begin", "attention.tokens"], "attention.written")
        axes = self._constant("beside", np.array([1, 2, 3]))
        written = self._once("Unsqueeze", [end, axes], "attention.by_row")
        return self._once("Less", [column, written], "attention.filled")

    def _once(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        return output if output in self._made else self._add(operator, inputs, output, **attributes)

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._made.add(output)
        self._graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, value: Any) -> str:
        name = f"half.{name}"
        if name not in self._made:
            self._made.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(helper.get_attribute_value(found) for found in node.attribute if found.name == name)
