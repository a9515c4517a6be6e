"""Arrays that lie in a temporary file, so that they take no memory of the process's own."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SMALLEST_BYTES = 1 << 16  # smaller arrays stay in memory
ALIGNMENT_BYTES = 4096


class Scratch:
    """A context manager of a temporary file in ``folder``, which the system deletes on its own.

    It is gone even if the process is killed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._end = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile(dir=self._folder, prefix=".edgeseq-")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def keep(self, array: NDArray[Any]) -> NDArray[Any]:
        """Write ``array`` to the file; return it memory-mapped, or itself if it is small."""
        if array.nbytes < SMALLEST_BYTES:
            return array
        with self._lock:
            self._file.seek(self._end)
            offset = self._end
            self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            self._file.flush()
            self._end = offset + array.nbytes + -array.nbytes % ALIGNMENT_BYTES
            return np.memmap(self._file, array.dtype, "r", offset, array.shape)
