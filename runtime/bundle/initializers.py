"""ONNX initializers whose data lies in a bundle's weights file.

Export and quantize write graphs with them, and both need the package ``onnx``. Running a bundle
does not need it, so no module that loads with the runtime imports this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, get_args

import onnx
from numpy.typing import NDArray
from onnx import helper

from .manifest import WEIGHTS_FILE_NAME, OverlappingWeight, WeightDtype
from .weights_file import SMALL_TENSOR_ALIGNMENT_BYTES

LEAST_OVERLAP_BYTES = 1 << 16  # smaller weights may be mapped several times
LOOKUPS = {"Gather", "BlockLookup"}  # operators that read few rows of a table


def external_tensor(name: str, array: NDArray[Any], offset: int) -> onnx.TensorProto:
    """Return an initializer whose data lies at byte ``offset`` of the weights file."""
    tensor = onnx.TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    place = {"location": WEIGHTS_FILE_NAME, "offset": offset, "length": array.nbytes}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def place_of(tensor: onnx.TensorProto) -> tuple[int, int] | None:
    """Return where an initializer's data begins and ends in the weights file; None: elsewhere."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    place = {entry.key: entry.value for entry in tensor.external_data}
    begin = int(place["offset"])
    return begin, begin + int(place["length"])


def overlapping_weights(models: Sequence[onnx.ModelProto]) -> dict[str, OverlappingWeight]:
    """Return the weights whose bytes other names, or several of the ``models``, use too."""
    places: dict[str, set[tuple[int, int]]] = {}
    tensors: dict[str, list[onnx.TensorProto]] = {}
    for model in models:
        for tensor in model.graph.initializer:
            place = place_of(tensor)
            if place is not None and size_bytes(tensor) >= LEAST_OVERLAP_BYTES:
                places.setdefault(tensor.name, set()).add(place)
                tensors.setdefault(tensor.name, []).append(tensor)
    dtypes: dict[str, WeightDtype] = {dtype: dtype for dtype in get_args(WeightDtype)}
    # A session gets weights by name, so a name has to mean the same in all graphs.
    at = sorted((*found.pop(), name) for name, found in places.items() if len(found) == 1)
    overlapping = {name for _, _, name in at if len(tensors[name]) > 1}
    longest = (0, "")  # the end of the earlier weight that ends last, and its name
    for (_, end, name), (begin, _, following) in pairwise(at):
        longest = max(longest, (end, name))
        if begin < longest[0]:
            overlapping |= {longest[1], following}
    return {
        name: OverlappingWeight(
            offset_bytes=begin,
            dtype=dtypes[helper.tensor_dtype_to_np_dtype(tensors[name][0].data_type).name],
            shape=tuple(tensors[name][0].dims),
        )
        for begin, _, name in at
        if name in overlapping
    }


def size_bytes(tensor: onnx.TensorProto) -> int:
    """Return the size of an initializer's data in bytes."""
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * itemsize)


def shifts_others(tensor: onnx.TensorProto) -> bool:
    """Return whether packed weights after this initializer would lose their alignment.

    ONNX Runtime writes packed weights in the order of the initializers, and its kernels rely on
    their alignment (``runtime/ort/prepacked.py``). Sort by this key to put such initializers last.
    """
    return size_bytes(tensor) % SMALL_TENSOR_ALIGNMENT_BYTES != 0


def weights_per_run_bytes(
    nodes: Iterable[onnx.NodeProto], initializers: Iterable[onnx.TensorProto]
) -> int:
    """Return the size in bytes of the weights that every run reads; lookup tables do not count."""
    read = {name for node in nodes if node.op_type not in LOOKUPS for name in node.input}
    return sum(size_bytes(tensor) for tensor in initializers if tensor.name in read)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes of a graph, including the nodes in the bodies of loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from all_nodes(attribute.g)
