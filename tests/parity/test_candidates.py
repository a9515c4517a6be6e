"""The best continuations of beams, compared with sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq.runtime.decoding.candidates import SET, Candidate, best, draw, scan
from edgeseq.runtime.logits.softmax import normalize

VOCABULARIES = [1, 5, SET - 1, SET, SET + 1, 3 * SET + 17, 50_257]


def by_sorting(log_probs: np.ndarray, scores: list[float], count: int) -> list[tuple[int, int]]:
    sums = (log_probs.astype(np.float64) + np.array(scores)[:, None]).ravel()
    places = np.lexsort((np.arange(sums.size), -sums))[:count]
    return [divmod(int(place), log_probs.shape[1]) for place in places if sums[place] > -1e9]


def places(found: list[Candidate]) -> list[tuple[int, int]]:
    return [(candidate.beam, candidate.token) for candidate in found]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize(("beams", "count"), [(1, 1), (1, 4), (3, 8), (4, 40)])
@pytest.mark.parametrize("peak", [0.0, -90.0, 300.0])
def test_the_best_of_random_logits(vocabulary: int, beams: int, count: int, peak: float) -> None:
    rng = np.random.default_rng(vocabulary + beams)
    logits = (peak + 4 * rng.normal(size=(beams, vocabulary))).astype(np.float32)
    scores = (-3 * rng.random(beams)).tolist()
    log_probs = torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()
    expected = by_sorting(log_probs, scores, count)
    found = best(logits, scores, count, scan(logits))
    assert places(found) == expected
    exact = [log_probs[beam, token] + scores[beam] for beam, token in expected]
    assert [candidate.score for candidate in found] == pytest.approx(exact, abs=1e-4)
    normalize(logits)
    assert places(best(logits, scores, count)) == expected


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_ties_go_to_the_lower_beam_and_then_the_lower_id(data: st.DataObject) -> None:
    vocabulary = data.draw(st.sampled_from([3, SET + 5, 2 * SET]))
    beams = data.draw(st.integers(1, 3))
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    values = np.array([-1.0, -2.0, -np.inf], np.float32)
    log_probs = values[rng.integers(0, 3, (beams, vocabulary))]
    scores = [0.0] * beams
    count = data.draw(st.integers(1, 12))
    assert places(best(log_probs, scores, count)) == by_sorting(log_probs, scores, count)


def test_the_best_may_be_in_one_set() -> None:
    logits = np.full((1, 4 * SET), -50.0, np.float32)
    tokens = [1 + 4 * i for i in range(6)]  # all of set 1
    logits[0, tokens] = np.arange(6, 0, -1)
    assert places(best(logits, [0.0], 6)) == [(0, token) for token in tokens]


@pytest.mark.parametrize("impossible", [-np.inf, np.finfo(np.float32).min])
def test_impossible_tokens_are_left_out(impossible: float) -> None:
    log_probs = np.full((2, 3 * SET), impossible, np.float32)
    log_probs[0, 5] = -1.0
    log_probs[1, 2 * SET + 1] = -0.5
    assert places(best(log_probs, [0.0, -1.0], 8)) == [(0, 5), (1, 2 * SET + 1)]
    drawn = draw(log_probs, [0.0, -1.0], 8, np.random.default_rng(0))
    assert sorted(places(drawn)) == [(0, 5), (1, 2 * SET + 1)]
    log_probs[:] = impossible
    assert best(log_probs, [0.0, 0.0], 8) == []
    assert draw(log_probs, [0.0, 0.0], 8, np.random.default_rng(0)) == []


def test_a_scan_of_a_part_of_the_rows() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 2 * SET + 9)).astype(np.float32)
    whole, part = scan(logits), scan(logits[1:3])
    cut = whole.rows(1, 3)
    assert cut.sums == part.sums
    assert cut.rest == part.rest
    np.testing.assert_array_equal(cut.maxima, part.maxima)


def test_continuations_whose_exponentials_vanish() -> None:
    logits = np.full((1, 3 * SET), -160.0, np.float32)
    logits[0, [7, 300, 11]] = [0.0, -115.0, -116.0]
    found = best(logits, [0.0], 3, scan(logits))
    assert places(found) == [(0, 7), (0, 300), (0, 11)]
    assert [candidate.score for candidate in found] == pytest.approx([0.0, -115.0, -116.0])
