"""A decoder's graph with a KV cache of 8-bit integers.

Keys and values are rounded when they are appended, with one scale each per layer. Queries read
the rounded numbers, so results are the same for one token and for several at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .attentions import CACHE_PREFIX, PAST_KEY, PAST_VALUE
from .functions import CACHED_ATTENTION, DOMAIN
from .writer import add_function

LARGEST_CODE = 127
MARGIN = 1.1  # factor on the largest magnitude in the calibration text
ALL_KEYS = -1  # a window without a limit
QKV, SEQLENS, TOTAL, BIAS, SCALES = 0, 5, 6, 10, 12  # indices of GroupQueryAttention's inputs
FORMAT = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}


def with_int8_cache(model: onnx.ModelProto, peaks: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy of ``model`` with a KV cache in 8 bits.

    ``peaks``: by ``"0.key"``, the largest magnitude in the cache.

    Attention calls the function ``CachedAttention``, for which edgeseq has a kernel, unless its
    node has a form that only ``GroupQueryAttention`` computes.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type != "GroupQueryAttention":
            continue
        pasts = (node.input[i].removeprefix(CACHE_PREFIX) for i in (PAST_KEY, PAST_VALUE))
        scales = [_scale(changed, name, peaks[name]) for name in pasts]
        if _has_kernel(node):
            _call_function(node, scales)
        else:
            _set_format(node, scales)
    if any(node.op_type == CACHED_ATTENTION for node in changed.graph.node):
        add_function(changed, CACHED_ATTENTION)
    for value in (*changed.graph.input, *changed.graph.output):
        if value.name.startswith((CACHE_PREFIX, "present.")):
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    return changed


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def _has_kernel(node: onnx.NodeProto) -> bool:
    """Return whether ``CachedAttention`` computes a ``GroupQueryAttention`` node."""
    attributes = _attributes(node)
    inputs = {i for i, name in enumerate(node.input) if name}
    return (
        inputs <= {QKV, PAST_KEY, PAST_VALUE, SEQLENS, TOTAL, BIAS}
        and attributes.keys() <= {"num_heads", "kv_num_heads", "scale", "local_window_size"}
        and attributes["kv_num_heads"] == attributes["num_heads"]
        and attributes.get("scale", 0.0) != 0.0
        and attributes.get("local_window_size", ALL_KEYS) != 0
        and len(node.output) == 3
        and all(node.output)
    )


def _call_function(node: onnx.NodeProto, scales: list[str]) -> None:
    """Replace a ``GroupQueryAttention`` node by a call of ``CachedAttention``."""
    attributes = _attributes(node)
    inputs = [node.input[i] for i in (QKV, PAST_KEY, PAST_VALUE, SEQLENS, TOTAL)]
    bias = _input(node, BIAS)
    call = onnx.helper.make_node(
        CACHED_ATTENTION,
        [*inputs, *scales, *([bias] if bias else [])],
        list(node.output),
        name=node.name,
        domain=DOMAIN,
        num_heads=attributes["num_heads"],
        scale=attributes["scale"],
        local_window_size=attributes.get("local_window_size", ALL_KEYS),
    )
    node.CopyFrom(call)


def _set_format(node: onnx.NodeProto, scales: list[str]) -> None:
    """Give a ``GroupQueryAttention`` node a KV cache in 8 bits."""
    node.input.extend([*[""] * (SCALES - len(node.input)), *scales])
    kept = [attribute for attribute in node.attribute if attribute.name not in FORMAT]
    del node.attribute[:]
    formats = [onnx.helper.make_attribute(name, value) for name, value in FORMAT.items()]
    node.attribute.extend([*kept, *formats])


def _scale(model: onnx.ModelProto, name: str, peak: float) -> str:
    """Add the scale of a layer's keys or values as an initializer; return its name."""
    scale = np.array([peak * MARGIN / LARGEST_CODE], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scale, f"cache.{name}.scale"))
    return f"cache.{name}.scale"
