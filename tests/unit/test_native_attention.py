"""The compiled kernels' attention over an 8-bit KV cache: all give numpy's bits.

``attention.h`` fixes the order of the floating-point operations, and the reference follows it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseq.runtime.native.library import find_library
from tests.support.rounding import fused_multiply_add

Array = NDArray[Any]
f32 = np.float32
LANES = 16
SCALE = f32(0.17)


class Call(ctypes.Structure):
    """``CachedAttention`` of kernels.h."""

    _fields_ = (
        *((n, ctypes.c_int64) for n in ("rows", "tokens", "heads", "size")),
        *((n, ctypes.c_int64) for n in ("past_capacity", "capacity")),
        *((n, ctypes.c_void_p) for n in ("qkv", "past_keys", "past_values", "keys", "values")),
        *((n, ctypes.c_void_p) for n in ("last", "bias")),
        *((n, ctypes.c_int64) for n in ("bias_row", "bias_head", "bias_token", "window")),
        *((n, ctypes.c_float) for n in ("scale", "key_scale", "value_scale")),
    )


@dataclass(frozen=True)
class Case:
    """The inputs of the operator. ``lengths``: keys of each row after the step."""

    qkv: Array  # (rows, tokens, 3, heads, size)
    past_keys: Array
    past_values: Array
    lengths: Array
    bias: Array | None = None
    window: int = -1
    key_scale: np.float32 = field(default=f32(0.031))
    value_scale: np.float32 = field(default=f32(0.023))

    @property
    def tokens(self) -> int:
        return int(self.qkv.shape[1])

    def past(self, row: int) -> int:
        return max(int(self.lengths[row]) - self.tokens, 0)

    def new(self, row: int) -> int:
        return int(self.lengths[row]) - self.past(row)


def make_case(
    size: int,
    tokens: int,
    lengths: list[int],
    *,
    heads: int = 2,
    room: int = 3,
    bias: str = "",
    window: int = -1,
    seed: int = 0,
) -> Case:
    """``bias``: "", "all" for one of each row and head, "shared" for one."""
    rng = np.random.default_rng(seed)
    rows, total = len(lengths), max(lengths)
    cache = (rows, heads, max(total, tokens) + room, size)
    shape = {"all": (rows, heads), "shared": (1, 1)}.get(bias)
    return Case(
        qkv=rng.normal(size=(rows, tokens, 3, heads, size)).astype(f32),
        past_keys=rng.integers(-128, 128, cache).astype(np.int8),
        past_values=rng.integers(-128, 128, cache).astype(np.int8),
        lengths=np.array(lengths, np.int32),
        bias=rng.normal(size=(*shape, tokens, total)).astype(f32) if shape else None,
        window=window,
    )


class Library:
    """The compiled library's attention."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        library.edgeseq_kernels.argtypes = [ctypes.c_size_t]
        library.edgeseq_kernels.restype = ctypes.c_char_p
        self._attend = library.edgeseq_attend
        self._attend.argtypes = [ctypes.c_size_t, ctypes.POINTER(Call), ctypes.c_void_p]
        self._attend.restype = None
        self.names = []
        while (name := library.edgeseq_kernels(len(self.names))) is not None:
            self.names.append(name.decode())

    def attend(self, index: int, case: Case, capacity: int | None = None) -> list[Array]:
        """Return outputs, keys and values.

        ``capacity``: of the new cache; None: the cache is changed in place.
        """
        rows, tokens, _, heads, size = case.qkv.shape
        pasts = [case.past_keys.copy(), case.past_values.copy()]
        presents = pasts
        if capacity is not None:
            presents = [np.full((rows, heads, capacity, size), 99, np.int8) for _ in pasts]
        last = case.lengths - 1
        steps = [0, 0, 0]
        if case.bias is not None:
            sizes = zip(case.bias.strides, case.bias.shape, strict=True)
            steps = [0 if n == 1 and i < 2 else step // 4 for i, (step, n) in enumerate(sizes)][:3]
        y = np.full((rows, tokens, heads, size), 7, f32)
        call = Call(
            *(rows, tokens, heads, size, pasts[0].shape[2], presents[0].shape[2]),
            *(array.ctypes.data for array in (case.qkv, *pasts, *presents, last)),
            None if case.bias is None else case.bias.ctypes.data,
            *(*steps, case.window, SCALE, case.key_scale, case.value_scale),
        )
        self._attend(index, ctypes.byref(call), y.ctypes.data)
        return [y, *presents]


@pytest.fixture(scope="module")
def library() -> Library:
    path = find_library()
    if path is None:
        pytest.skip("edgeseq is installed without its kernels")
    return Library(str(path))


def codes_of(x: Array, scale: np.float32) -> Array:
    """Return what ONNX Runtime stores: see its MlasKVQuantize."""
    limited = np.where(x * (f32(1) / scale) < 127, x * (f32(1) / scale), f32(127))
    return np.rint(np.maximum(limited, f32(-128))).astype(np.int8)


def appended(case: Case) -> tuple[Array, Array]:
    keys, values = case.past_keys.copy(), case.past_values.copy()
    for row in range(len(case.qkv)):
        new = slice(case.past(row), case.past(row) + case.tokens)
        for i, (cache, scale) in enumerate(
            ((keys, case.key_scale), (values, case.value_scale)), start=1
        ):
            codes = codes_of(case.qkv[row, :, i], scale).swapaxes(0, 1)
            cache[row, :, new] = codes[:, : cache[row, :, new].shape[1]]
    return keys, values


def exponential(x: Array) -> Array:
    x = np.maximum(x, f32(-100))  # all below -87 is zero

    def constant(value: float) -> Array:
        return np.full(x.shape, value, f32)

    shift = f32(12582912)
    n = fused_multiply_add(x, constant(1.44269504), constant(12582912)) - shift
    r = fused_multiply_add(n, constant(-0.693359375), x)
    r = fused_multiply_add(n, constant(2.12194440e-4), r)
    p = constant(1.9875691500e-4)
    for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1):
        p = fused_multiply_add(p, r, constant(factor))
    for factor in (5.0000001201e-1, 1, 1):
        p = fused_multiply_add(p, r, constant(factor))
    return np.where(x < -87, f32(0), np.ldexp(p, np.maximum(n, -126).astype(int)))


def visible(case: Case, row: int, token: int) -> slice:
    end = case.past(row) + token + 1
    return slice(max(end - case.window, 0) if case.window >= 0 else 0, end)


def bias_of(case: Case, row: int, head: int, token: int, keys: slice) -> Array | None:
    if case.bias is None:
        return None
    rows, heads = case.bias.shape[:2]
    return case.bias[row if rows > 1 else 0, head if heads > 1 else 0, token, keys]


def expected(case: Case) -> Array:
    rows, tokens, _, heads, size = case.qkv.shape
    keys, values = appended(case)
    y = np.zeros((rows, tokens, heads, size), f32)
    for row in range(rows):
        for head in range(heads):
            queries = case.qkv[row, :, 0, head] * (SCALE * case.key_scale)
            codes = keys[row, head].astype(f32)
            scores = np.zeros((tokens, len(codes)), f32)
            for d in range(size):
                scores = fused_multiply_add(queries[:, d, None], codes[None, :, d], scores)
            p, factors = np.zeros_like(scores), np.zeros(tokens, f32)
            for token in range(case.new(row)):
                seen = visible(case, row, token)
                own = scores[token, seen]
                if (bias := bias_of(case, row, head, token, seen)) is not None:
                    own = own + bias
                p[token, seen] = exponential(own - own.max())
                lanes = np.zeros(LANES, f32)
                for key in range(seen.start, seen.stop):
                    lanes[key % LANES] += p[token, key]
                while len(lanes) > 1:
                    lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
                factors[token] = case.value_scale / lanes[0]
            sums = np.zeros((tokens, size), f32)
            for key in range(int(case.lengths[row])):
                code = values[row, head, key].astype(f32)
                sums = fused_multiply_add(p[:, key, None], code[None], sums)
            y[row, :, head] = sums * factors[:, None]
    return y


def plain(case: Case) -> Array:
    """Return the attention in 64-bit floats."""
    rows, tokens, _, heads, size = case.qkv.shape
    keys, values = (cache.astype(float) for cache in appended(case))
    y = np.zeros((rows, tokens, heads, size))
    for row, head, token in np.ndindex(rows, heads, tokens):
        if token >= case.new(row):
            continue
        seen = visible(case, row, token)
        scores = keys[row, head, seen] @ case.qkv[row, token, 0, head].astype(float)
        scores *= float(SCALE) * float(case.key_scale)
        if (bias := bias_of(case, row, head, token, seen)) is not None:
            scores = scores + bias
        p = np.exp(scores - scores.max())
        y[row, token, head] = p @ values[row, head, seen] / p.sum() * float(case.value_scale)
    return y


CASES = {
    "one token": make_case(64, 1, [1]),
    "one token of each row": make_case(64, 1, [70, 1, 33, 16]),
    "a short prompt": make_case(8, 5, [5, 2, 1]),
    "sizes of no whole vectors": make_case(24, 3, [20, 50], bias="all"),
    "small heads": make_case(8, 1, [18, 5], heads=5, bias="shared"),
    "large heads": make_case(128, 2, [66]),
    "heads of 40": make_case(40, 9, [49], bias="all"),
    "one query more than a tile": make_case(64, 7, [7, 3]),
    "a chunk after others": make_case(64, 65, [165], bias="all"),
    "a padded prompt": make_case(32, 130, [130, 67, 1], bias="shared", heads=1),
    "a window": make_case(32, 1, [90, 10, 17], window=17),
    "a window over a chunk": make_case(16, 70, [200], window=33, bias="all"),
    "a window of one key": make_case(16, 20, [20], window=1),
    "no room": make_case(16, 4, [40], room=0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_outputs_have_the_bits_of_the_reference(library: Library, case: Case) -> None:
    wanted, (keys, values) = expected(case), appended(case)
    for index, name in enumerate(library.names):
        found = library.attend(index, case)
        assert np.array_equal(found[0], wanted), name
        assert np.array_equal(found[1], keys), name
        assert np.array_equal(found[2], values), name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_outputs_are_those_of_attention(library: Library, case: Case) -> None:
    found = library.attend(0, case)[0]
    np.testing.assert_allclose(found, plain(case), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("factor", [1e-6, 30.0, 1e4])
def test_extreme_scores(library: Library, factor: float) -> None:
    """Tiny and huge queries, large codes, and biases that leave one key."""
    case = make_case(16, 9, [40, 9], bias="all", seed=3)
    assert case.bias is not None
    case.qkv[:, :, 0] *= f32(factor)
    case.qkv[:, :, 1:] *= 10
    case.bias[0, 0, :, 1:5] = -np.inf
    case.bias[0, 1, :, 1:5] = -3e38
    case.bias[1, 0, :, 0] = 500
    wanted = expected(case)
    assert np.isfinite(wanted).all()
    for index, name in enumerate(library.names):
        assert np.array_equal(library.attend(index, case)[0], wanted), name


def test_the_exponential_is_accurate() -> None:
    x = np.concatenate([-np.geomspace(1e-8, 87, 200_000), np.linspace(-87, 0, 200_000)]).astype(f32)
    exact = np.exp(x.astype(float))
    assert np.abs(exponential(x) / exact - 1).max() < 2e-7
    assert exponential(np.array([0, -87.01, -1000, -np.inf], f32)).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("bias", ["", "all"])
@pytest.mark.parametrize("window", [-1, 20])
def test_a_query_depends_on_nothing_else(library: Library, bias: str, window: int) -> None:
    """Tokens one by one, in chunks, beside other rows, and in a larger cache: the same bits."""
    whole = make_case(24, 75, [75], bias=bias, window=window, seed=5)
    for index in range(len(library.names)):
        y, keys, values = library.attend(index, whole)
        for size in (1, 2, 6, 7, 64):
            cache = whole.past_keys, whole.past_values
            parts = []
            for begin in range(0, 75, size):
                end = min(begin + size, 75)
                part = replace(
                    whole,
                    qkv=np.ascontiguousarray(whole.qkv[:, begin:end]),
                    past_keys=cache[0],
                    past_values=cache[1],
                    lengths=np.array([end], np.int32),
                    bias=None
                    if whole.bias is None
                    else np.ascontiguousarray(whole.bias[:, :, begin:end, :end]),
                )
                found, *cache = library.attend(index, part)
                parts.append(found)
            assert np.array_equal(np.concatenate(parts, axis=1), y), size
            assert np.array_equal(cache[0][:, :, :75], keys[:, :, :75])
            assert np.array_equal(cache[1][:, :, :75], values[:, :, :75])
        others = make_case(24, 120, [120, 75, 4], bias=bias, window=window, room=60, seed=6)
        others.qkv[1, :75] = whole.qkv[0]
        if whole.bias is not None and others.bias is not None:
            others.bias[1, :, :75, :75] = whole.bias[0]
        assert np.array_equal(library.attend(index, others)[0][1, :75], y[0])


def test_padding_gets_zeros(library: Library) -> None:
    case = make_case(16, 70, [70, 3], seed=2)
    case.qkv[1, 3:] = np.nan
    for index in range(len(library.names)):
        y = library.attend(index, case)[0]
        assert (y[1, 3:] == 0).all()
        assert np.isfinite(y).all()


def test_a_new_cache_has_the_old_keys_and_zeros_after_the_new_ones(library: Library) -> None:
    case = make_case(16, 2, [30, 2, 20], room=0)
    for index in range(len(library.names)):
        in_place = library.attend(index, case)
        for capacity in (30, 37):
            found = library.attend(index, case, capacity)
            assert np.array_equal(found[0], in_place[0])
            for cache, old in zip(found[1:], in_place[1:], strict=True):
                for row, length in enumerate(case.lengths):
                    assert np.array_equal(cache[row, :, :length], old[row, :, :length])
                    assert (cache[row, :, length:] == 0).all()


def test_codes_are_rounded_to_even_and_limited(library: Library) -> None:
    case = replace(make_case(16, 1, [1], heads=1), key_scale=f32(0.5), value_scale=f32(2))
    x = [0.25, 0.75, -0.25, -0.75, 63.5, 63.75, -64, -64.25, 1e30, -1e30, np.inf, -np.inf, np.nan]
    case.qkv[0, 0, 1, 0, : len(x)] = x
    for index in range(len(library.names)):
        codes = library.attend(index, case)[1][0, 0, 0, : len(x)]
        assert codes.tolist() == [0, 2, 0, -2, 127, 127, -128, -128, 127, -128, 127, -128, 127]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tokens", [1, 9])
def test_what_is_no_number_stays_none(library: Library, value: float, tokens: int) -> None:
    """A query with such a value has no numbers as its output; other queries do not notice."""
    case = make_case(16, tokens, [40])
    case.past_keys[:, :, 3, 5] = 0
    without = [library.attend(index, case)[0] for index in range(len(library.names))]
    case.qkv[0, -1, 0, 1, 5] = value
    for index, before in enumerate(without):
        y = library.attend(index, case)[0]
        assert np.isnan(y[0, -1, 1]).all()
        y[0, -1, 1] = before[0, -1, 1]
        assert np.array_equal(y, before)
