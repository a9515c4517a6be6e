"""A decoder's graph with a cache of 8-bit integers.

Keys and values are rounded with a scale a channel as they are appended, and every query reads the
rounded ones: one token and several at once see the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

LARGEST_CODE = 127
MARGIN = 1.1  # over the largest magnitude that a calibration text showed
PASTS = slice(3, 5)  # which inputs of GroupQueryAttention are the cache
SCALE_INPUTS = 12  # where GroupQueryAttention takes the keys' scales; the values' follow
CACHE_PREFIXES = ("past_key_values.", "present.")


def with_int8_cache(
    model: onnx.ModelProto, peaks: Mapping[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    """``model`` with its cache in 8 bits; ``peaks``: by ``"0.key"``, (heads, head_size)."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type != "GroupQueryAttention":
            continue
        pasts = [name.removeprefix(CACHE_PREFIXES[0]) for name in node.input[PASTS]]
        scales = [_scale(changed, name, peaks) for name in pasts]
        inputs = [*node.input, *[""] * (SCALE_INPUTS - len(node.input)), *scales]
        del node.input[:]
        node.input.extend(inputs)
        for name in ("k_quant_type", "v_quant_type"):
            node.attribute.append(onnx.helper.make_attribute(name, "PER_CHANNEL"))
        node.attribute.append(onnx.helper.make_attribute("kv_cache_bit_width", 8))
    for value in (*changed.graph.input, *changed.graph.output):
        if value.name.startswith(CACHE_PREFIXES):
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    return changed


def _scale(model: onnx.ModelProto, name: str, peaks: Mapping[str, NDArray[np.float32]]) -> str:
    """Add the scales of a layer's keys or values as a weight; channels of padding have one too."""
    peak = peaks[name].reshape(-1)
    scales = np.where(peak > 0, peak * np.float32(MARGIN / LARGEST_CODE), np.float32(1))
    tensor = numpy_helper.from_array(scales.astype(np.float32), f"cache.{name}.scales")
    model.graph.initializer.append(tensor)
    return tensor.name
