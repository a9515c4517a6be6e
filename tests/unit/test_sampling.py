"""Sampling of tokens from rows of logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgeseq.runtime.decoding.greedy_and_sampling import sample
from edgeseq.runtime.errors import BundleError, OptionError

INF = float("inf")


def generators(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


class Fixed(np.random.Generator):
    """A generator that always returns the same number."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self) -> float:  # type: ignore[override]
        return self.value


def row(*probabilities: float) -> npt.NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.log(np.array([probabilities], dtype=np.float32))


def test_draws_follow_the_probabilities() -> None:
    probabilities = np.array([0.4, 0.0, 0.3, 0.15, 0.1, 0.05])
    draws = 20_000
    logits = np.repeat(row(*probabilities), draws, axis=0)
    generator = np.random.default_rng(0)
    counts = np.bincount(sample(logits, [generator] * draws), minlength=6)
    assert counts[1] == 0
    expected = probabilities[probabilities > 0] * draws
    chi_square = ((counts[probabilities > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 18.47  # 99.9% of chi-square with 4 degrees of freedom


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 1), (0.24, 1), (0.26, 2), (0.74, 2), (0.76, 4), (1 - 2**-53, 4)],
)
def test_uniform_numbers_map_to_tokens(uniform: float, token: int) -> None:
    # The first and last tokens have probability 0: the ends of the range must not reach them.
    assert sample(row(0, 0.25, 0.5, 0, 0.25, 0), [Fixed(uniform)]).tolist() == [token]


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.5, 1 - 2**-53])
def test_never_a_token_of_probability_zero(uniform: float) -> None:
    # Finite logits so low that exp gives 0, and one that was filtered out.
    logits = np.array([[-1e4, 0, -1e4, -INF, -3e38]], dtype=np.float32)
    assert sample(logits, [Fixed(uniform)]).tolist() == [1]


def test_the_same_seed_draws_the_same() -> None:
    logits = np.random.default_rng(5).normal(size=(3, 1000)).astype(np.float32)
    first = sample(logits, generators(1, 2, 3))
    assert first.dtype == np.int64
    assert first.shape == (3,)
    assert first.tolist() == sample(logits, generators(1, 2, 3)).tolist()
    assert first.tolist() != sample(logits, generators(4, 5, 6)).tolist()


def test_rows_do_not_depend_on_their_neighbours() -> None:
    logits = np.random.default_rng(5).normal(size=(3, 1000)).astype(np.float32)
    together = sample(logits, generators(1, 2, 3))
    alone = [sample(logits[[i]], generators(i + 1))[0] for i in range(3)]
    assert together.tolist() == alone


def test_each_row_takes_one_number() -> None:
    (generator, twin) = generators(7, 7)
    sample(row(0.5, 0.5), [generator])
    twin.random()
    assert generator.random() == twin.random()


def test_logits_are_left_as_they_were() -> None:
    logits = row(0.25, 0.75)
    before = logits.copy()
    sample(logits, generators(0))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [INF, 1.0], [np.nan, -INF], [INF, np.nan]])
def test_row_without_probabilities(bad: list[float]) -> None:
    with pytest.raises(BundleError, match="must be finite"):
        sample(np.array([bad], dtype=np.float32), generators(0))


def test_a_row_without_any_token_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^No token may come next: .*\.$"):
        sample(np.array([[1.0, 2.0], [-INF, -INF]], dtype=np.float32), generators(0, 1))


def test_each_row_needs_a_generator() -> None:
    with pytest.raises(ValueError, match="zip"):
        sample(row(0.5, 0.5), generators(0, 1))
