"""A decoder's graph with a KV cache of 8-bit integers.

Keys and values are rounded when they are appended, with one scale each per layer. Queries read
the rounded numbers, so results are the same for one token and for several at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from .attentions import CACHE_PREFIX, PAST_KEY, PAST_VALUE

LARGEST_CODE = 127
MARGIN = 1.1  # factor on the largest magnitude in the calibration text
SCALE_INPUTS = 12  # GroupQueryAttention's input index of the keys' scale, before the values'
FORMAT = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}


def with_int8_cache(model: onnx.ModelProto, peaks: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy of ``model`` with a KV cache in 8 bits.

    ``peaks``: by ``"0.key"``, the largest magnitude in the cache.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type != "GroupQueryAttention":
            continue
        pasts = (node.input[i].removeprefix(CACHE_PREFIX) for i in (PAST_KEY, PAST_VALUE))
        scales = [_scale(changed, name, peaks[name]) for name in pasts]
        node.input.extend([*[""] * (SCALE_INPUTS - len(node.input)), *scales])
        kept = [attribute for attribute in node.attribute if attribute.name not in FORMAT]
        del node.attribute[:]
        formats = [onnx.helper.make_attribute(name, value) for name, value in FORMAT.items()]
        node.attribute.extend([*kept, *formats])
    for value in (*changed.graph.input, *changed.graph.output):
        if value.name.startswith((CACHE_PREFIX, "present.")):
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    return changed


def _scale(model: onnx.ModelProto, name: str, peak: float) -> str:
    """Add the scale of a layer's keys or values as an initializer; return its name."""
    scale = np.array([peak * MARGIN / LARGEST_CODE], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scale, f"cache.{name}.scale"))
    return f"cache.{name}.scale"
