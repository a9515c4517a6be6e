"""Rounding of weights: small cases by hand, and properties of any weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeseq.quantize import rounding
from edgeseq.quantize.rounding import Codes, Curvature, round_weight
from edgeseq.runtime import BundleError

Floats = NDArray[np.float32]
BITS = (4, 7, 8)
LIMITS = {4: (-8, 7), 7: (-64, 63), 8: (-128, 127)}

weights = arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 5)),
    elements=st.floats(-1000, 1000, width=32),
)


def column(*values: float) -> Floats:
    return np.array(values, np.float32)[:, None]


def random_weight(inputs: int, outputs: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)


def correlated(inputs: int, seed: int = 0) -> NDArray[np.float64]:
    """Return the sum of x x^T over correlated inputs."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, 6)) @ rng.normal(size=(6, inputs))
    rows += 0.1 * rng.normal(size=rows.shape)
    return rows.T @ rows


def output_error(weight: Floats, codes: Codes, hessian: NDArray[np.float64]) -> float:
    """Return the squared error of the layer's outputs, tr(dW^T H dW)."""
    difference = (codes.weight() - weight).astype(np.float64)
    return float(np.trace(difference.T @ hessian @ difference))


# By hand


@pytest.mark.parametrize("bits", BITS)
def test_all_codes_are_used(bits: int) -> None:
    low, high = LIMITS[bits]
    expected = np.arange(low, high + 1)
    codes = round_weight(column(*expected * 0.25), bits=bits, group_size=1 << bits)
    assert codes.codes[:, 0].tolist() == expected.tolist()
    assert codes.scales.tolist() == [[0.25]]


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_value_takes_the_lowest_code_whatever_its_sign(bits: int) -> None:
    low, high = LIMITS[bits]
    expected = np.arange(low, high + 1)
    codes = round_weight(column(*expected * -0.25), bits=bits, group_size=1 << bits)
    assert codes.codes[:, 0].tolist() == expected.tolist()
    assert codes.scales.tolist() == [[-0.25]]


def test_every_group_of_every_output_has_a_scale_of_its_own() -> None:
    weight = np.array([[-8, 80], [7, -70], [-4, -5], [3.5, 0.625]], np.float32)
    codes = round_weight(weight, bits=4, group_size=2)
    assert codes.scales.tolist() == [[1, -10], [0.5, 0.625]]
    assert codes.codes.tolist() == [[-8, -8], [7, 7], [-8, -8], [7, 1]]
    assert codes.weight().tolist() == weight.tolist()


def test_the_last_group_may_be_shorter() -> None:
    weight = column(-8, 7, 1, -16, 14, 2, -4)
    codes = round_weight(weight, bits=4, group_size=3)
    assert codes.scales[:, 0].tolist() == [1, 2, pytest.approx(0.5, rel=0.2)]
    assert codes.codes.shape == (7, 1)
    assert codes.weight().tolist() == pytest.approx(weight, rel=1e-6)


def test_four_bits_cut_off_one_outlier_where_the_rest_gains_by_it() -> None:
    weight = column(-8, *[0.72] * 63)
    codes = round_weight(weight, bits=4, group_size=64)
    assert abs(codes.scales[0, 0]) < 1
    assert np.abs(codes.weight() - weight)[1:].max() < 0.15


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("curvature", [None, Curvature(np.eye(6))], ids=["nearest", "compensated"])
def test_zeros_stay_zeros(bits: int, curvature: Curvature | None) -> None:
    """Groups of zeros alone are among them: no scale may be 0."""
    weight = np.zeros((6, 3), np.float32)
    weight[:, 1] = 5
    weight[3:, 2] = 1
    codes = round_weight(weight, bits=bits, group_size=3, curvature=curvature)
    assert (codes.weight()[weight == 0] == 0).all()
    assert (codes.scales != 0).all()
    assert np.isfinite(codes.scales).all()


def test_the_next_weight_compensates_an_error() -> None:
    """Two inputs that are always the same: 6.4 + 6.4 is better met by 6 + 7 than by 6 + 6.

    The eight before them make 1 the best scale.
    """
    weight = column(*[-8] * 8, 6.4, 6.4)
    hessian = np.eye(10)
    hessian[8, 9] = hessian[9, 8] = 1
    plain = round_weight(weight, bits=4, group_size=10)
    compensated = round_weight(weight, bits=4, group_size=10, curvature=Curvature(hessian))
    assert plain.codes[:, 0].tolist() == [-8] * 8 + [6, 6]
    assert compensated.codes[:, 0].tolist() == [-8] * 8 + [6, 7]


# For any weight


@settings(deadline=None, max_examples=60)
@given(weight=weights, bits=st.sampled_from(BITS), group_size=st.sampled_from([1, 3, 16, 64]))
def test_errors_are_within_half_a_scale(weight: Floats, bits: int, group_size: int) -> None:
    """Except where values are cut off at the highest code."""
    codes = round_weight(weight, bits=bits, group_size=group_size)
    low, high = LIMITS[bits]
    assert codes.codes.dtype == np.int8
    assert codes.codes.shape == weight.shape
    assert codes.scales.shape == (-(-len(weight) // group_size), weight.shape[1])
    assert low <= codes.codes.min() <= codes.codes.max() <= high
    scales = np.abs(np.repeat(codes.scales, group_size, axis=0)[: len(weight)])
    inside = (codes.codes != high) & (codes.codes != low)
    error = np.abs(codes.weight() - weight)
    assert (error <= 0.5001 * scales + 1e-6 * np.abs(weight))[inside].all()


@settings(deadline=None, max_examples=60)
@given(weight=weights, bits=st.sampled_from(BITS))
def test_no_worse_than_the_plainest_rounding(weight: Floats, bits: int) -> None:
    high = LIMITS[bits][1]
    scale = np.maximum(np.abs(weight).max(axis=0) / high, 1e-30)
    plainest = np.rint(weight / scale) * scale
    codes = round_weight(weight, bits=bits, group_size=len(weight))
    error = ((codes.weight() - weight) ** 2).sum(axis=0)
    assert (error <= ((plainest - weight) ** 2).sum(axis=0) * 1.001 + 1e-6).all()


def test_eight_bits_lose_at_most_half_a_code() -> None:
    weight = random_weight(64, 50)
    codes = round_weight(weight, bits=8, group_size=64)
    step = np.abs(weight).max(axis=0) / 127
    assert (np.abs(codes.weight() - weight) <= 0.5001 * step).all()


# With the inputs of a text


@pytest.mark.parametrize(
    ("bits", "inputs", "group_size"),
    [(4, 40, 16), (4, 150, 32), (4, 70, 64), (4, 300, 256), (7, 300, 300), (8, 150, 64)],
)
def test_outputs_are_nearer_with_compensation(bits: int, inputs: int, group_size: int) -> None:
    weight, hessian = random_weight(inputs, 20), correlated(inputs)
    plain = round_weight(weight, bits=bits, group_size=group_size)
    compensated = round_weight(
        weight, bits=bits, group_size=group_size, curvature=Curvature(hessian)
    )
    low, high = LIMITS[bits]
    assert low <= compensated.codes.min() <= compensated.codes.max() <= high
    assert compensated.scales.shape == plain.scales.shape
    assert output_error(weight, compensated, hessian) < 0.5 * output_error(weight, plain, hessian)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("inputs", "group_size"), [(40, 16), (150, 150), (200, 64)])
def test_independent_inputs_need_no_compensation(bits: int, inputs: int, group_size: int) -> None:
    weight = random_weight(inputs, 12)
    plain = round_weight(weight, bits=bits, group_size=group_size)
    compensated = round_weight(
        weight, bits=bits, group_size=group_size, curvature=Curvature(np.eye(inputs))
    )
    assert (compensated.codes == plain.codes).all()
    assert compensated.scales == pytest.approx(plain.scales)


@pytest.mark.parametrize("columns", [1, 7, 32])
def test_columns_are_compensated_in_parts(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of an error goes to all later columns, those of later parts included."""
    weight, hessian = random_weight(100, 20), correlated(100)
    at_once = round_weight(weight, bits=7, group_size=100, curvature=Curvature(hessian))
    monkeypatch.setattr(rounding, "COLUMNS_AT_ONCE", columns)
    parts = round_weight(weight, bits=7, group_size=100, curvature=Curvature(hessian))
    assert (parts.scales == at_once.scales).all()
    assert (parts.codes == at_once.codes).mean() > 0.98  # but for ties


def test_compensation_takes_the_same_however_much_text_there_was() -> None:
    weight, hessian = random_weight(60, 10), correlated(60)
    once = round_weight(weight, bits=4, group_size=16, curvature=Curvature(hessian))
    often = round_weight(weight, bits=4, group_size=16, curvature=Curvature(hessian * 1024))
    assert (once.codes == often.codes).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dead", [slice(0, 5), slice(15, 33), slice(None)])
def test_inputs_that_are_always_zero(bits: int, dead: slice) -> None:
    weight, hessian = random_weight(50, 8), correlated(50)
    hessian[dead] = 0
    hessian[:, dead] = 0
    codes = round_weight(weight, bits=bits, group_size=16, curvature=Curvature(hessian))
    assert np.isfinite(codes.weight()).all()
    assert np.abs(codes.weight() - weight).max() < np.abs(weight).max()


def test_the_weight_is_not_changed() -> None:
    weight, hessian = random_weight(40, 8), correlated(40)
    weight.flags.writeable = hessian.flags.writeable = False
    round_weight(weight, bits=4, group_size=16, curvature=Curvature(hessian))
    round_weight(weight, bits=4, group_size=16)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("curvature", [None, Curvature(np.eye(6))], ids=["nearest", "compensated"])
def test_weights_that_are_not_finite_are_refused(value: float, curvature: Curvature | None) -> None:
    weight = random_weight(6, 4)
    weight[2, 3] = value
    with pytest.raises(BundleError) as caught:
        round_weight(weight, bits=8, group_size=3, curvature=curvature)
    assert str(caught.value) == (
        "A weight of the bundle is NaN or infinite: export the checkpoint again."
    )
