"""The compiled scan of logits gives what numpy's scan gives."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseq.runtime.decoding import candidates
from edgeseq.runtime.native.library import processor_library
from edgeseq.runtime.native.logits import RowScans, scan_rows

pytestmark = pytest.mark.skipif(
    processor_library() is None, reason="there are no kernels for this processor"
)
f32 = np.float32


def logits_of(rows: int, vocabulary: int, scale: float = 1.0) -> NDArray[np.float32]:
    rng = np.random.default_rng(vocabulary)
    return (scale * rng.normal(size=(rows, vocabulary))).astype(f32)


def scanned(logits: NDArray[np.float32], set_size: int) -> RowScans:
    found = scan_rows(logits, set_size)
    assert found is not None
    return found


@pytest.mark.parametrize("scale", [1e-3, 1, 8, 1e4, 3e38])
@pytest.mark.parametrize("vocabulary", [1, 15, 255, 256, 257, 4096, 5000, 32128, 50257])
def test_maxima_and_sums(vocabulary: int, scale: float) -> None:
    set_size = 256
    with np.errstate(over="ignore"):
        logits = np.clip(logits_of(3, vocabulary, scale), -3e38, 3e38)
    found = scanned(logits, set_size)
    sets = vocabulary // set_size
    inside = logits[:, : sets * set_size].reshape(3, set_size, sets)
    rest = logits[:, sets * set_size :]
    assert np.array_equal(found.maxima, inside.max(axis=1))
    assert np.array_equal(found.rest, rest.max(axis=1, initial=-np.inf))
    assert np.array_equal(found.peaks, logits.max(axis=1))
    exact = logits.astype(np.float64)
    expected = np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1)
    np.testing.assert_allclose(found.sums, expected, rtol=5e-7)


def test_impossible_tokens() -> None:
    """They have logits of minus infinity."""
    logits = logits_of(2, 1000)
    logits[0, ::3] = -np.inf
    logits[1, 5:] = -np.inf
    found = scanned(logits, 16)
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True)).sum(axis=1)
    np.testing.assert_allclose(found.sums, exact, rtol=5e-7)
    assert found.rest[1] == -np.inf


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 100, 999])
def test_numbers_that_are_not_finite(wrong: float, place: int) -> None:
    logits = logits_of(2, 1000)
    logits[1, place] = wrong
    found = scanned(logits, 16)
    assert np.isfinite(found.sums[0])
    assert np.isnan(found.sums[1])


def test_no_possible_token() -> None:
    assert np.isnan(scanned(np.full((1, 300), -np.inf, f32), 256).sums[0])


def test_rows_apart_in_memory_are_left_to_numpy() -> None:
    assert scan_rows(logits_of(4, 600)[:, ::2], 16) is None


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
def test_the_scan_of_beam_search(bad: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the library it is the same, up to rounding."""
    logits = logits_of(4, 5000, 3)
    if bad is not None:
        logits[2] = bad
    native = candidates.scan(logits.copy())
    monkeypatch.setattr(candidates, "scan_rows", lambda *_: None)
    plain = candidates.scan(logits.copy())
    np.testing.assert_allclose(native.maxima, plain.maxima, atol=candidates.SLACK)
    np.testing.assert_allclose(native.rest, plain.rest, atol=candidates.SLACK)
    normalizers = [np.add(*scan.sums) for scan in (native, plain)]
    np.testing.assert_allclose(*normalizers, atol=2e-6)


@pytest.mark.parametrize("eos", [0, 2])
def test_the_best_continuations(eos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = logits_of(4, 50257, 3)
    scores = [-1.0, -2.5, -3.0, -40.0]
    found = candidates.best(logits, scores, 8 + eos, candidates.scan(logits))
    monkeypatch.setattr(candidates, "scan_rows", lambda *_: None)
    expected = candidates.best(logits, scores, 8 + eos, candidates.scan(logits))
    assert [c[1:] for c in found] == [c[1:] for c in expected]
    np.testing.assert_allclose([c.score for c in found], [c.score for c in expected], atol=2e-6)
