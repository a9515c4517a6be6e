"""The weights file: each content is stored once, aligned and bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime.bundle.weights_file import WeightsFile

Array = np.ndarray[Any, Any]
GRID = np.arange(24, dtype=np.float32).reshape(4, 6)


def stored(path: Path, *arrays: Array) -> list[int]:
    with WeightsFile(path) as file:
        return [file.add(array) for array in arrays]


@pytest.mark.parametrize(
    "array",
    [
        GRID,
        GRID.T,
        GRID[::2, ::3],
        GRID[::-1, ::-1],
        np.asfortranarray(GRID),
        np.broadcast_to(GRID[0], (3, 6)),
        GRID.astype(">f4"),
        GRID.astype(">f4").T,
        np.arange(5, dtype=">i8"),
        np.arange(5, dtype=np.float16),
        np.array([-1, 0, 1], dtype=np.int8),
        np.array([True, False]),
        np.array(7.5, dtype=np.float32),
        np.empty((0, 4), dtype=np.float32),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}{array.strides}",
)
def test_a_tensor_is_stored_little_endian_in_row_order(tmp_path: Path, array: Array) -> None:
    before = array.copy()
    offset, _ = stored(tmp_path / "w", array, np.ones(3))
    data = (tmp_path / "w").read_bytes()[offset : offset + array.nbytes]
    read = np.frombuffer(data, array.dtype.newbyteorder("<")).reshape(array.shape)
    np.testing.assert_array_equal(read, before)
    np.testing.assert_array_equal(array, before)


def test_each_content_is_stored_once(tmp_path: Path) -> None:
    offsets = stored(
        tmp_path / "w", GRID, GRID + 1, GRID.copy(), GRID.T.copy().T, GRID.astype(">f4")
    )
    assert offsets[0] == offsets[2] == offsets[3] == offsets[4]
    assert offsets[1] != offsets[0]
    assert (tmp_path / "w").stat().st_size < 3 * GRID.nbytes


def test_tensors_lie_apart_and_aligned(tmp_path: Path) -> None:
    sizes = [1, 3, 4095, 4096, 17, 4097, 64, 10_000, 63, 8192]
    arrays = [np.full(size, i + 1, np.uint8) for i, size in enumerate(sizes)]
    offsets = stored(tmp_path / "w", *arrays)
    end = 0
    for offset, size in zip(offsets, sizes, strict=True):
        assert offset >= end
        assert offset % (4096 if size >= 4096 else 64) == 0
        end = offset + size
    assert (tmp_path / "w").stat().st_size == end
