"""The one file that holds the weights of all graphs of a bundle.

Raw little-endian tensors, each at an offset that the operating system can map, each content once:
a tensor that two graphs use, or one graph uses under two names, is one stretch of the file. What
the tensors are called is written in the graphs, as ONNX external data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

WEIGHTS_FILE_NAME = "weights.bin"
PAGE_BYTES = 4096
SMALL_TENSOR_ALIGNMENT_BYTES = 64


class WeightsFile:
    """A weights file that is being written.

    Tensors of a page or more start on a page, so that they can be mapped one by one; smaller ones
    start on a cache line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("wb")
        self._places: dict[tuple[str, bytes], tuple[int, int]] = {}

    def add(self, array: np.ndarray[Any, Any]) -> tuple[int, int]:
        """``(offset, length)`` in bytes of ``array`` in the file; written if it is not there."""
        import hashlib  # late: it loads OpenSSL, which running a bundle does not need

        data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        view = data.reshape(-1).view(np.uint8).data
        key = (data.dtype.str, hashlib.sha256(view).digest())
        if key not in self._places:
            self._places[key] = (self._align(view.nbytes), view.nbytes)
            self._file.write(view)
        return self._places[key]

    def _align(self, size_bytes: int) -> int:
        alignment = PAGE_BYTES if size_bytes >= PAGE_BYTES else SMALL_TENSOR_ALIGNMENT_BYTES
        position = self._file.tell()
        padding = -position % alignment
        self._file.write(b"\0" * padding)
        return position + padding

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
