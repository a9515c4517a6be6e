"""Diverse beam search by hand: what recorded cases hardly show."""

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
    """A step on rows of probabilities, which sum to 1."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(rows, np.float32))
    return search.choose(logits)


def test_groups_are_pushed_apart() -> None:
    search = new_search(num_beams=3, num_beam_groups=3)
    choice = step(search, [0, 0.5, 0.3, 0.15, 0.05, 0])
    # log 0.5 - 1 is below log 0.3; log 0.3 - 1 and log 0.5 - 1 are above log 0.15.
    assert list(choice.next_tokens) == [1, 2, 1]
    assert list(choice.parent_rows) == [0, 0, 0]


LOW = -math.inf


def advance(search: GroupBeamSearch, *rows: Sequence[float]) -> Any:
    """The first group after a step on rows of log-probabilities."""
    group = search._prompts[0].groups[0]
    log_probs = np.array(rows, np.float32)
    group.advance(log_probs, log_probs, None)
    return group


def test_an_end_that_is_not_among_the_groups_best_is_ignored() -> None:
    search = new_search(num_beams=4, num_beam_groups=2, length_penalty=0.0)
    advance(search, [LOW, -1.0, -1.5, LOW, LOW, LOW])
    # In order: a token, the first beam's end, the second one's, a token.
    group = advance(search, [-0.3, LOW, LOW, -0.1, LOW, LOW], [-0.1, LOW, LOW, LOW, -0.5, LOW])
    assert [kept.token_ids for kept in group.hypotheses] == [[1, EOS]]
    assert group.beams.last_tokens == [3, 4]


def test_a_group_is_done_by_the_best_of_all_candidates_ends_included() -> None:
    search = new_search(num_beams=4, num_beam_groups=2, length_penalty=0.0)
    advance(search, [LOW, -0.5, -0.6, LOW, LOW, LOW])
    group = advance(search, [-1.3, LOW, LOW, -1.7, LOW, LOW], [-1.4, LOW, LOW, LOW, -1.8, LOW])
    assert [kept.score for kept in group.hypotheses] == pytest.approx([-1.8, -2.0])
    assert group.is_live  # -1.8 is above -2.0, though no beam that goes on is


@pytest.mark.parametrize(("pad", "chosen"), [(3, 4), (2, 3)])
def test_a_group_that_is_done_counts_as_choosing_the_padding(pad: int, chosen: int) -> None:
    search = new_search(num_beams=2, num_beam_groups=2, pad_token_id=pad)
    assert list(step(search, [0, 0.5, 0.4, 0.1, 0, 0]).next_tokens) == [1, 2]
    # The first group ends, and is done; the second goes on.
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
