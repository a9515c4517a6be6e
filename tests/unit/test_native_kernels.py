"""The compiled kernels of each kind of CPU that this one can run: all give numpy's bits.

``linear.h`` fixes the order of the floating-point operations, and these references follow it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseq.runtime.native.library import find_library, processor_kernels
from tests.support.rounding import fused_multiply_add

Array = NDArray[Any]
SHAPES = ((64, 32), (768, 36), (100, 5), (3, 1), (1, 7), (257, 33), (2048, 64))  # inputs, outputs
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 31)
f32 = np.float32


class Library:
    """The functions of the compiled library for tests."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        library.edgeseq_kernels.argtypes = [ctypes.c_size_t]
        library.edgeseq_kernels.restype = ctypes.c_char_p
        self._rows, self._blocks = library.edgeseq_multiply_rows, library.edgeseq_multiply_blocks
        self._rows.argtypes = [ctypes.c_size_t, *[pointer] * 3, size, size, pointer, size, pointer]
        self._rows.restype = None
        self._blocks.argtypes = [ctypes.c_size_t, *[pointer] * 4, *[size] * 4, pointer, size]
        self._blocks.argtypes += [pointer]
        self._blocks.restype = None
        self.names = []
        while (name := library.edgeseq_kernels(len(self.names))) is not None:
            self.names.append(name.decode())

    def multiply_rows(
        self, index: int, codes: Array, scales: Array, bias: Array | None, x: Array
    ) -> Array:
        y = np.full((len(x), len(codes)), np.nan, f32)
        outputs, inputs = codes.shape
        arrays = codes.ctypes.data, scales.ctypes.data, address(bias)
        self._rows(index, *arrays, inputs, outputs, x.ctypes.data, len(x), y.ctypes.data)
        return y

    def multiply_blocks(
        self, index: int, packed: Array, scales: Array, bias: Array | None, x: Array, **sizes: int
    ) -> Array:
        outputs = len(scales)
        y = np.full((len(x), outputs), np.nan, f32)
        is_half = scales.dtype == np.float16
        floats, halves = (None, scales) if is_half else (scales, None)
        arrays = packed.ctypes.data, address(floats), address(halves), address(bias)
        shape = x.shape[1], outputs, sizes["block_size"], sizes["bits"]
        self._blocks(index, *arrays, *shape, x.ctypes.data, len(x), y.ctypes.data)
        return y


def address(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


@pytest.fixture(scope="module")
def library() -> Library:
    path = find_library()
    if path is None:
        pytest.skip("edgeseq is installed without its kernels")
    return Library(str(path))


def with_bias(result: Array, bias: Array | None) -> Array:
    return result if bias is None else result + bias


def expected_rows(codes: Array, scales: Array, bias: Array | None, x: Array) -> Array:
    step = np.abs(x).max(axis=1, keepdims=True) * f32(1 / 127)
    rounded = np.rint(x / np.where(step > 0, step, f32(1)))
    sums = rounded.astype(np.int64) @ codes.T.astype(np.int64)
    return with_bias(sums.astype(f32) * step * scales, bias)


def expected_blocks(
    codes: Array, scales: Array, bias: Array | None, x: Array, block_size: int, bits: int
) -> Array:
    """``codes``: signed, (outputs, blocks * block_size)."""
    step = 64 * 8 // bits  # codes in 64 bytes
    part = min(step, block_size)  # of a block, in a step
    parts = step // part
    inputs, padded = codes.shape[1], -(-codes.shape[1] // step) * step
    blocks = np.zeros((len(x), inputs), f32)
    blocks[:, : x.shape[1]] = x
    blocks = blocks.reshape(len(x), -1, block_size)
    peaks = np.abs(blocks).max(axis=2)
    factors = np.where(peaks > 0, f32(127) / np.where(peaks > 0, peaks, f32(1)), f32(0))
    rounded = np.rint(blocks * factors[..., None]).reshape(len(x), -1)
    activations = np.pad(rounded, ((0, 0), (0, padded - inputs))).reshape(len(x), -1, part)
    weights = np.pad(codes, ((0, 0), (0, padded - inputs))).reshape(len(codes), -1, part)
    totals = np.einsum("rbk,nbk->rnb", activations.astype(np.int64), weights).astype(f32)
    block = np.minimum(np.arange(padded // part) * part // block_size, scales.shape[1] - 1)
    x_scales = peaks * f32(1 / 127)
    scale = scales.astype(f32)[None][:, :, block] * x_scales[:, None][:, :, block]
    sums = np.zeros((len(x), len(codes), parts), f32)
    for begin in range(0, padded // part, parts):
        at = slice(begin, begin + parts)
        sums = fused_multiply_add(totals[..., at], scale[..., at], sums)
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        sums = sums[..., :half] + sums[..., half:]
    return with_bias(sums[..., 0], bias)


def activations(rng: np.random.Generator, rows: int, inputs: int) -> Array:
    """Return rows of different sizes, some of zeros, and one with values at the ends."""
    x = rng.normal(size=(rows, inputs)) * rng.choice([1e-3, 1.0, 100.0], size=(rows, 1))
    if rows > 2:
        x[1] = 0
        x[2] = np.where(x[2] < 0, -50, 50)
    return x.astype(f32)


def test_this_processors_kernels_come_first(library: Library) -> None:
    assert library.names[0] == processor_kernels()
    assert library.names[-1] == "generic"


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES, ids=str)
@pytest.mark.parametrize("extreme", [False, True])
def test_rows(library: Library, inputs: int, outputs: int, extreme: bool) -> None:
    rng = np.random.default_rng(inputs)
    codes = rng.integers(-64, 64, (outputs, inputs))
    if extreme:
        codes[:] = rng.choice([-64, 63], (outputs, 1))
    codes = codes.astype(np.int8)
    scales = rng.random(outputs).astype(f32)
    for rows in ROWS:
        x = activations(rng, rows, inputs)
        bias = rng.normal(size=outputs).astype(f32) if rows % 2 else None
        wanted = expected_rows(codes, scales, bias, x)
        for index, name in enumerate(library.names):
            found = library.multiply_rows(index, codes, scales, bias, x)
            assert np.array_equal(found, wanted), (name, rows)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES, ids=str)
@pytest.mark.parametrize(
    ("bits", "block_size"), [(8, 16), *((bits, 2**n) for n in (5, 6, 7, 8) for bits in (4, 8))]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_blocks(
    library: Library, inputs: int, outputs: int, block_size: int, bits: int, dtype: Any
) -> None:
    rng = np.random.default_rng(inputs + block_size)
    zero, blocks = 1 << (bits - 1), -(-inputs // block_size)
    unsigned = rng.integers(0, 2 * zero, (outputs, blocks * block_size)).astype(np.uint8)
    unsigned[0, :inputs] = 2 * zero - 1
    unsigned[:, inputs:] = zero
    packed = unsigned if bits == 8 else unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    packed = np.ascontiguousarray(packed, np.uint8)
    scales = (rng.random((outputs, blocks)) / 100).astype(dtype)
    for rows in (1, 2, 5, 9, 14):
        x = activations(rng, rows, inputs)
        bias = rng.normal(size=outputs).astype(f32) if rows % 2 else None
        codes = unsigned.astype(np.int64) - zero
        wanted = expected_blocks(codes, scales, bias, x, block_size, bits)
        for index, name in enumerate(library.names):
            found = library.multiply_blocks(
                index, packed, scales, bias, x, block_size=block_size, bits=bits
            )
            assert np.array_equal(found, wanted), (name, rows)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_tiny_values_count_as_zeros(library: Library, bits: int) -> None:
    packed = np.full((3, 32 * bits // 8), 7, np.uint8)
    x = np.full((2, 32), 1e-38, f32)
    for index in range(len(library.names)):
        y = library.multiply_blocks(
            index, packed, np.ones((3, 1), f32), None, x, block_size=32, bits=bits
        )
        assert (y == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(library: Library, value: float) -> None:
    """A row with such a value has no finite results; other rows do not notice."""
    x = np.ones((3, 64), f32)
    x[1, 5] = value
    codes, packed = np.ones((8, 64), np.int8), np.full((8, 64), 129, np.uint8)
    for index in range(len(library.names)):
        y = library.multiply_rows(index, codes, np.ones(8, f32), None, x)
        z = library.multiply_blocks(
            index, packed, np.ones((8, 1), f32), None, x, block_size=64, bits=8
        )
        for found in (y, z):
            assert not np.isfinite(found[1]).any()
            assert found[[0, 2]] == pytest.approx(64, rel=1e-5)
