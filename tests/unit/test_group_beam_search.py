"""Diverse beam search by hand: details that the recorded cases hardly test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime.decoding.group_beam_search import GroupBeamSearch
from edgeseq.runtime.decoding.loop import StepResult
from edgeseq.runtime.decoding.stopping import Stopping
from edgeseq.runtime.logits.processors import Diversity, Prompt, Rows, text_processors
from edgeseq.runtime.request.options import GenerationOptions

EOS = 0
VOCABULARY = 6


def new_search(limit: int = 9, **options: Any) -> GroupBeamSearch:
    settings: dict[str, Any] = {"diversity_penalty": 1.0, "eos_token_id": EOS, **options}
    resolved = GenerationOptions(**settings)
    tasks = [Prompt([5], [5], limit)]
    diversity = Diversity(resolved.diversity_penalty)
    processors = text_processors(resolved, tasks, diversity=diversity)
    stopping = Stopping(frozenset(resolved.eos_token_ids))
    return GroupBeamSearch(tasks, resolved, processors, stopping, diversity)


def step(search: GroupBeamSearch, *rows: Sequence[float]) -> StepResult:
    """Make a step on rows of probabilities, which sum to 1."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(rows, np.float32))
    return search.choose(logits)


def test_the_penalty_makes_groups_choose_different_tokens() -> None:
    search = new_search(num_beams=3, num_beam_groups=3)
    choice = step(search, [0, 0.5, 0.3, 0.15, 0.05, 0])
    # log 0.5 - 1 is below log 0.3; log 0.3 - 1 and log 0.5 - 1 are above log 0.15.
    assert list(choice.next_tokens) == [1, 2, 1]
    assert list(choice.parent_rows) == [0, 0, 0]


FIFTH = [0, 0, 0, 0, 0, 1]  # a row of the second group, which never ends here


def test_an_end_that_is_not_among_the_groups_best_is_ignored() -> None:
    search = new_search(num_beams=4, num_beam_groups=2, num_return_sequences=4)
    step(search, [0, 0.6, 0.4, 0, 0, 0])
    # In order: a token, the first beam's end, the second one's, a token.
    rows = [0.4, 0, 0, 0.5, 0, 0.1], [0.5, 0, 0, 0, 0.4, 0.1]
    choice = step(search, *rows, FIFTH, FIFTH)
    assert [list(text.token_ids) for text in search.results()] == [[1, EOS]]
    assert list(choice.next_tokens) == [3, 4, 5, 5]
    assert list(choice.parent_rows) == [0, 1, 2, 3]


def test_a_group_is_done_by_the_best_of_all_candidates_ends_included() -> None:
    options: dict[str, Any] = {"num_return_sequences": 4, "length_penalty": 0.0}
    search = new_search(num_beams=4, num_beam_groups=2, **options)
    step(search, [0, 0.6, 0.4, 0, 0, 0])
    rows = [0.55, 0.1, 0.1, 0.2, 0.05, 0], [0.6, 0.1, 0.1, 0, 0.2, 0]
    choice = step(search, *rows, FIFTH, FIFTH)
    scores = [math.log(0.6 * 0.55), math.log(0.4 * 0.6)]
    assert [text.score for text in search.results()] == pytest.approx(scores)
    # The group continues: its best candidate, an end, is above the worse of its hypotheses, though
    # no beam that continues is.
    assert list(choice.next_tokens) == [3, 4, 5, 5]


@pytest.mark.parametrize(("pad", "chosen"), [(3, 4), (2, 3)])
def test_a_group_that_is_done_counts_as_choosing_the_padding(pad: int, chosen: int) -> None:
    search = new_search(num_beams=2, num_beam_groups=2, pad_token_id=pad)
    assert list(step(search, [0, 0.5, 0.4, 0.1, 0, 0]).next_tokens) == [1, 2]
    # The first group ends, and is done; the second continues.
    choice = step(search, [0.9, 0, 0, 0, 0.1, 0], [0, 0, 0, 0, 0, 1])
    assert list(choice.next_tokens) == [5]
    assert list(choice.parent_rows) == [1]
    assert list(step(search, [0, 0, 0, 0.6, 0.4, 0]).next_tokens) == [chosen]


def test_the_penalty_comes_before_the_repetition_penalty() -> None:
    options = GenerationOptions(
        num_beams=2, num_beam_groups=2, diversity_penalty=1.0, repetition_penalty=2.0
    )
    diversity = Diversity(1.0)
    diversity.chosen = [3, 3, 1]
    logits = np.full((1, VOCABULARY), -1.0, np.float32)
    tokens = np.array([3], np.int64)
    for process in text_processors(options, [Prompt([3], [3], 4)], diversity=diversity):
        process(logits, Rows([tokens], [0]))
    assert logits.tolist() == [[-1.0, -2.0, -1.0, -6.0, -1.0, -1.0]]


def test_hypotheses_of_all_groups_are_ranked_together() -> None:
    search = new_search(1, num_beams=2, num_beam_groups=2, num_return_sequences=2)
    choice = step(search, [0, 0.6, 0.3, 0.1, 0, 0])
    assert not choice.next_tokens
    found = search.results()
    assert [list(text.token_ids) for text in found] == [[1], [2]]
    assert [text.score for text in found] == pytest.approx([math.log(0.6), math.log(0.3)])
