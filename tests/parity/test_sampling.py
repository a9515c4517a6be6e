"""Sampling compared with Transformers 4.57.6: the processed distributions, and samples of them.

Distributions are compared on random logits, for a table in which all pairs of values of
``FACTORS`` occur. Draws cannot be compared one by one, as the generators differ: their counts must
fit the distribution by a chi-square test, whose seeds are fixed.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import GenerationConfig, GPT2LMHeadModel

from edgeseq.runtime import Model
from edgeseq.runtime.decoding import candidates
from edgeseq.runtime.logits.processors import Prompt, Rows, sampling_processors, text_processors
from edgeseq.runtime.request.options import GenerationOptions

Case = dict[str, Any]
Probabilities = npt.NDArray[np.floating[Any]]

FACTORS: Case = {
    "num_beams": (1, 4),
    "eos_token_id": (None, [3], [3, 11, 40]),
    "temperature": (1.0, 0.7, 1.5),
    "top_k": (0, 50, 1, 5),
    "top_p": (1.0, 0.9, 0.3, 0.0),
    "min_p": (None, 0.05, 0.3),
    "typical_p": (1.0, 0.9, 0.3),
    "epsilon_cutoff": (0.0, 3e-4, 0.05),
    "eta_cutoff": (0.0, 3e-4, 0.05),
    "renormalize_logits": (False, True),
    "repetition_penalty": (1.0, 1.3),
    "no_repeat_ngram_size": (0, 1),
    "bad_words_ids": (None, [[5], [7, 9]]),
    "sequence_bias": (None, {(8,): 3.0, (1, 2): -2.0}),
    "suppress_tokens": (None, [2, 4]),
    "min_new_tokens": (None, 30),
}
ROWS, LENGTH, VOCABULARY = 4, 12, 211
NORMAL_QUANTILE = 3.719  # of 1 - 1e-4
FEWEST = 5  # draws that are expected of outcomes that are taken together
MILD_CASES = 100
RETURNED = 3000


def pairs_of(case: Case) -> set[tuple[str, str]]:
    texts = [f"{name}={case[name]}" for name in FACTORS]
    return set(itertools.combinations(texts, 2))


def sampling_cases() -> list[Case]:
    """Return cases in which each pair of values occurs, and further ones of few options.

    Many warpers together leave few tokens to compare.
    """
    chance = random.Random(0)
    missing = {
        (f"{one}={a}", f"{other}={b}")
        for one, other in itertools.combinations(FACTORS, 2)
        for a, b in itertools.product(FACTORS[one], FACTORS[other])
    }
    cases = []
    while missing:
        tries = [
            {name: chance.choice(values) for name, values in FACTORS.items()} for _ in range(40)
        ]
        best = max(tries, key=lambda case: len(missing & pairs_of(case)))
        if missing & pairs_of(best):
            cases.append(best)
            missing -= pairs_of(best)
    for _ in range(MILD_CASES):
        chosen = {name: chance.choice(values) for name, values in FACTORS.items()}
        mild = {name: FACTORS[name][0] for name in FACTORS if chance.random() < 0.7}
        cases.append({**chosen, **mild})
    return cases


def our_distribution(case: Case, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    plain = {
        name: tuple(map(tuple, value)) if name == "bad_words_ids" else tuple(value)
        for name, value in case.items()
        if isinstance(value, list)
    }
    options = GenerationOptions(do_sample=True, **{**case, **plain})
    start = tokens[0, :-1].tolist()
    processors = text_processors(options, [Prompt(start, start, 40)]) + sampling_processors(options)
    changed = logits.numpy().copy()
    for process in processors:
        process(changed, Rows(list(tokens.numpy()), [0] * ROWS))
    return torch.from_numpy(changed).softmax(-1)


def their_distribution(
    network: GPT2LMHeadModel, case: Case, tokens: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    config = GenerationConfig(do_sample=True, pad_token_id=0, **case)
    network._prepare_special_tokens(config, device="cpu")
    start = LENGTH - 1  # one new token
    processors = network._get_logits_processor(config, start, tokens[:1, :-1], device="cpu")
    return processors(tokens, logits.clone()).softmax(-1)


@pytest.mark.parametrize("spread", [1.0, 3.0, 8.0])
def test_processed_distributions_as_transformers(reference: GPT2LMHeadModel, spread: float) -> None:
    generator = torch.Generator().manual_seed(int(spread))
    cases = sampling_cases()
    kept: list[int] = []
    for case in cases:
        # Rows continue one prompt; some ids are small, so that the options name them.
        tokens = torch.randint(0, 12, (1, LENGTH - 1), generator=generator).expand(ROWS, -1)
        last = torch.randint(0, 12, (ROWS, 1), generator=generator)
        tokens = torch.cat([tokens, last], dim=1)
        logits = spread * torch.randn(ROWS, VOCABULARY, generator=generator)
        if case["num_beams"] > 1:
            logits = logits.log_softmax(-1)
        ours = our_distribution(case, tokens, logits)
        theirs = their_distribution(reference, case, tokens, logits)
        assert (ours > 0).eq(theirs > 0).all(), case
        assert float((ours - theirs).abs().max()) <= 1e-5, case
        kept += (ours > 0).sum(-1).tolist()
    assert len(set(kept)) > 20
    assert sum(count > 1 for count in kept) > 0.5 * len(kept)


def assert_drawn_from(counts: Sequence[int], probabilities: Sequence[float]) -> None:
    """Check counts by a chi-square test at p = 1e-4 (Wilson and Hilferty), rare outcomes merged."""
    assert math.isclose(sum(probabilities), 1.0, abs_tol=1e-4)
    bins: list[list[float]] = [[0.0, 0.0]]  # draws, and how many are expected
    for chance, count in sorted(zip(probabilities, counts, strict=True), reverse=True):
        assert chance > 0 or count == 0
        if bins[-1][1] >= FEWEST:
            bins.append([0.0, 0.0])
        bins[-1][0] += count
        bins[-1][1] += chance * sum(counts)
    rest = bins.pop() if bins[-1][1] < FEWEST else [0.0, 0.0]
    bins[-1] = [bins[-1][0] + rest[0], bins[-1][1] + rest[1]]
    seen, expected = np.array(bins).T
    freedom = len(bins) - 1
    assert freedom >= 3
    statistic = float(((seen - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    assert statistic < freedom * (1 - spread + NORMAL_QUANTILE * math.sqrt(spread)) ** 3


def test_chi_square_tells_distributions_apart() -> None:
    """The test detects a difference of a tenth in the most probable token."""
    chances = np.array([0.4, 0.3, 0.2, 0.1])
    generator = np.random.default_rng(0)
    assert_drawn_from(generator.multinomial(RETURNED, chances).tolist(), chances.tolist())
    with pytest.raises(AssertionError):
        wrong = np.array([0.36, 0.34, 0.2, 0.1])
        assert_drawn_from(generator.multinomial(RETURNED, wrong).tolist(), chances.tolist())


OPTIONS: list[Case] = [
    {"top_k": 8},
    {"top_k": 0, "temperature": 1.7},
    {"top_k": 0, "top_p": 0.8, "temperature": 2.0, "repetition_penalty": 1.3},
]
PROMPT = [17, 9, 230, 41, 88]


def next_probabilities(network: GPT2LMHeadModel, ids: list[int], options: Case) -> Probabilities:
    """Return Transformers' probabilities of the next token after ``ids``."""
    config = GenerationConfig(do_sample=True, pad_token_id=0, **options)
    network._prepare_special_tokens(config, device="cpu")
    tokens = torch.tensor([ids])
    processors = network._get_logits_processor(config, len(PROMPT), tokens, device="cpu")
    with torch.no_grad():
        logits = network(tokens).logits[:, -1]
    probabilities: Probabilities = processors(tokens, logits).softmax(-1)[0].numpy()
    return probabilities


def assert_tokens_fit(counts: Counter[int], probabilities: Probabilities) -> None:
    assert_drawn_from(
        [counts[token] for token in range(probabilities.size)], probabilities.tolist()
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_draws_fit_the_distribution(
    model: Model, reference: GPT2LMHeadModel, options: Case
) -> None:
    """Draws of the first token, and of the second after the most frequent first."""
    results = model.generate_ids(
        [PROMPT],
        do_sample=True,
        num_return_sequences=RETURNED,
        max_new_tokens=2,
        seed=1,
        eos_token_id=None,
        **options,
    )
    texts = [result.token_ids for result in results]
    firsts = Counter(text[0] for text in texts)
    assert_tokens_fit(firsts, next_probabilities(reference, PROMPT, options))
    ((first, _),) = firsts.most_common(1)
    seconds = Counter(text[1] for text in texts if text[0] == first)
    assert_tokens_fit(seconds, next_probabilities(reference, [*PROMPT, first], options))


def test_seeds_fit_the_distribution(model: Model, reference: GPT2LMHeadModel) -> None:
    """One call for each seed."""
    options = {"top_k": 12, "temperature": 1.5}
    call = {"do_sample": True, "max_new_tokens": 1, "eos_token_id": None, **options}
    counts = Counter(
        model.generate_ids([PROMPT], seed=seed, **call)[0].token_ids[0] for seed in range(800)
    )
    assert_tokens_fit(counts, next_probabilities(reference, PROMPT, options))


def test_beam_sampling_draws_without_replacement() -> None:
    """First and second draws of ``draw``, compared with their exact conditional probabilities."""
    generator = np.random.default_rng(3)
    log_probs = np.log(generator.dirichlet(np.ones(5), size=2)).astype(np.float32)
    log_probs[1, 2] = -np.inf
    scores = np.array([-0.3, -0.9], np.float32)
    weights = np.exp(log_probs + scores[:, None]).ravel().astype(np.float64)
    chances = weights / weights.sum()
    draws = np.zeros((10, 10), int)
    for _ in range(20_000):
        drawn = candidates.draw(log_probs, scores, 4, generator)
        places = [candidate.beam * 5 + candidate.token for candidate in drawn]
        assert len(set(places)) == 4
        sums = (log_probs + scores[:, None]).ravel()[places]
        np.testing.assert_allclose([candidate.score for candidate in drawn], sums, rtol=1e-6)
        draws[places[0], places[1]] += 1
    second = chances[:, None] * chances / (1 - chances[:, None])
    np.fill_diagonal(second, 0.0)
    assert_drawn_from(draws.sum(axis=1).tolist(), chances.tolist())
    assert_drawn_from(draws.sum(axis=0).tolist(), second.sum(axis=0).tolist())
    assert_drawn_from(draws.ravel().tolist(), second.ravel().tolist())


def test_beam_sampling_draws_what_there_is() -> None:
    log_probs = np.full((2, 5), -np.inf, np.float32)
    log_probs[[0, 0, 1], [1, 4, 0]] = [-1.0, -2.0, -0.5]
    orders = Counter()
    generator = np.random.default_rng(0)
    for _ in range(200):
        drawn = candidates.draw(log_probs, np.zeros(2, np.float32), 4, generator)
        orders[tuple((candidate.beam, candidate.token) for candidate in drawn)] += 1
    assert {frozenset(order) for order in orders} == {frozenset({(0, 1), (0, 4), (1, 0)})}
    assert len(orders) == 6
