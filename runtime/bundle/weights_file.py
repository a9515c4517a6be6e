"""The one file that holds the weights of all graphs of a bundle.

It holds raw little-endian tensors, at offsets that the operating system can map. Equal tensors are
stored once, even if two graphs use them or one graph uses them under two names. The names of the
tensors are in the graphs, as ONNX external data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

PAGE_BYTES = 4096
SMALL_TENSOR_ALIGNMENT_BYTES = 64


class WeightsFile:
    """A writer of the weights file.

    A tensor of at least a page starts on a page, so that it can be mapped by itself. A smaller
    tensor starts on a cache line.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._offsets: dict[tuple[str, bytes], int] = {}

    def add(self, array: np.ndarray[Any, Any]) -> int:
        """Write ``array`` unless the file contains it already; return its offset in bytes."""
        import hashlib  # late: it loads OpenSSL, which running a bundle does not need

        data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        view = data.reshape(-1).view(np.uint8).data
        key = (data.dtype.str, hashlib.sha256(view).digest())
        if key not in self._offsets:
            self._offsets[key] = self._align(view.nbytes)
            self._file.write(view)
        return self._offsets[key]

    def flush(self) -> None:
        """Write what was added to the file, so that it can be read."""
        self._file.flush()

    def _align(self, size_bytes: int) -> int:
        alignment = PAGE_BYTES if size_bytes >= PAGE_BYTES else SMALL_TENSOR_ALIGNMENT_BYTES
        position = self._file.tell()
        padding = -position % alignment
        self._file.write(b"\0" * padding)
        return position + padding

    def close(self) -> None:
        """Close the file, which is then complete."""
        self._file.close()

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
