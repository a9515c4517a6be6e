"""The decoding loop on a scripted decoder, by hand and without ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat

import numpy as np
import pytest

from edgeseq.runtime.decoding.loop import Found, NewToken, StepResult, decode
from edgeseq.runtime.request.options import GenerationOptions
from edgeseq.runtime.results import FinishReason
from tests.support.scripted_decoder import Ids, Logits, ScriptedDecoder
from tests.support.scripted_search import Finished, run, search_for, steps_of

VOCABULARY = 8


def one_hot(token: int) -> Sequence[float]:
    return [float(i == token) for i in range(VOCABULARY)]


def counting(ids: Ids) -> Sequence[float]:
    """Return logits for counting: 1, 2, 3, … and at the end EOS."""
    return one_hot((ids[-1] + 1) % VOCABULARY)


# Greedy search


@pytest.mark.parametrize(
    ("prompt", "limit", "ids", "reason"),
    [
        ([0], 3, [1, 2, 3], "length"),
        ([4], 9, [5, 6, 7], "eos"),
        ([4], 3, [5, 6, 7], "eos"),  # both at once
        ([4], 2, [5, 6], "length"),
        ([6], 5, [7], "eos"),
        ([6], 1, [7], "eos"),
        ([0], 1, [1], "length"),
        ([7], 2, [0, 1], "length"),  # in the prompt the end means nothing
        ([1, 7, 2], 2, [3, 4], "length"),
    ],
)
def test_one_text(prompt: Ids, limit: int, ids: Ids, reason: str) -> None:
    assert run(ScriptedDecoder(counting), [prompt], limit) == [(ids, reason)]


def test_the_first_of_equal_logits_is_chosen() -> None:
    assert run(ScriptedDecoder(lambda ids: [0, 2, 1, 2, 0, 0, 0, 0]), [[0]], 1) == [([1], "length")]


def test_logits_may_be_negative_or_minus_infinity() -> None:
    rule = [-np.inf] * 5 + [-9.0, -8.5, -9.0]
    assert run(ScriptedDecoder(lambda ids: rule), [[0]], 2) == [([6, 6], "length")]


@pytest.mark.parametrize(("eos", "ids"), [((3, 5), [1, 2, 3]), (None, [1, 2, 3, 4, 5, 6, 7, 0])])
def test_several_ends_or_none(eos: tuple[int, ...] | None, ids: Ids) -> None:
    assert run(ScriptedDecoder(counting), [[0]], 8, eos_token_id=eos)[0][0] == ids


# The batch

PROMPTS = [[0], [5], [1, 2], [6], [3]]
ANSWERS: list[Finished] = [
    ([1, 2, 3, 4, 5], "length"),
    ([6, 7], "eos"),
    ([3, 4, 5, 6, 7], "eos"),
    ([7], "eos"),
    ([4, 5, 6, 7], "eos"),
]


def test_a_ragged_batch_in_the_order_of_its_prompts() -> None:
    assert run(ScriptedDecoder(counting), PROMPTS, 5) == ANSWERS


def test_a_row_gets_what_it_gets_alone() -> None:
    assert [run(ScriptedDecoder(counting), [prompt], 5)[0] for prompt in PROMPTS] == ANSWERS


def test_finished_rows_leave_the_batch() -> None:
    decoder = ScriptedDecoder(counting)
    run(decoder, PROMPTS, 5)
    assert decoder.calls == [
        ("prefill", [1, 1, 2, 1, 1]),
        ("select_rows", [0, 1, 2, 4]),  # text 3 has ended
        ("decode", [1, 6, 3, 4]),
        ("select_rows", [0, 2, 3]),  # text 1
        ("decode", [2, 4, 5]),
        ("decode", [3, 5, 6]),
        ("select_rows", [0, 1]),  # text 4
        ("decode", [4, 6]),
    ]


def test_every_row_reads_its_own_text_and_never_its_last_token() -> None:
    decoder = ScriptedDecoder(counting)
    run(decoder, PROMPTS, 5)
    expected = [[*prompt, *ids[:-1]] for prompt, (ids, _) in zip(PROMPTS, ANSWERS, strict=True)]
    assert sorted(decoder.left + decoder.texts) == sorted(expected)


def test_limits_are_each_rows_own() -> None:
    decoder = ScriptedDecoder(counting)
    finished = run(decoder, [[0], [0], [0], [0]], [3, 1, 4, 2])
    assert [ids for ids, _ in finished] == [[1, 2, 3], [1], [1, 2, 3, 4], [1, 2]]
    assert {reason for _, reason in finished} == {"length"}
    assert decoder.rows_per_decode == [3, 2, 1]
    assert decoder.selected == [[0, 2, 3], [0, 1], [1]]


@pytest.mark.parametrize(("prompts", "limit"), [([[0]], 5), ([[0], [1], [2]], 4), ([[6], [6]], 1)])
def test_rows_that_stay_as_they_are_are_not_selected(prompts: list[Ids], limit: int) -> None:
    decoder = ScriptedDecoder(counting)
    run(decoder, prompts, limit)
    assert decoder.selected == []
    assert decoder.rows_per_decode == [len(prompts)] * (limit - 1)


def test_each_step_tells_every_row_that_still_goes_on() -> None:
    steps = [list(step) for step in steps_of(ScriptedDecoder(counting), [[5], [0], [6]], 3)]
    assert steps == [
        [NewToken(0, 6, None), NewToken(1, 1, None), NewToken(2, 7, "eos")],
        [NewToken(0, 7, "eos"), NewToken(1, 2, None)],
        [NewToken(1, 3, "length")],
    ]


# A caller that looks before the end


def test_nothing_is_read_before_the_first_step_is_asked_for() -> None:
    decoder = ScriptedDecoder(counting)
    steps = steps_of(decoder, [[0]], 5)
    assert decoder.calls == []
    next(steps)
    assert decoder.calls == [("prefill", [1])]


def test_the_decoder_is_made_when_the_first_step_is_asked_for() -> None:
    made: list[ScriptedDecoder] = []

    def new_decoder() -> ScriptedDecoder:
        made.append(ScriptedDecoder(counting))
        return made[-1]

    steps = decode(new_decoder, [[0]], search_for([[0]], 3, GenerationOptions()))
    assert made == []
    assert len(list(steps)) == 3
    assert len(made) == 1


def test_a_token_is_told_before_the_next_one_is_computed() -> None:
    decoder = ScriptedDecoder(counting)
    for number, _ in enumerate(steps_of(decoder, [[0]], 5)):
        assert len(decoder.calls) == number + 1


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_closing_early_ends_the_work(taken: int) -> None:
    decoder = ScriptedDecoder(counting)
    steps = steps_of(decoder, [[0], [6]], 5)
    for _ in range(taken):
        next(steps)
    calls = list(decoder.calls)
    steps.close()  # type: ignore[attr-defined]
    assert list(steps) == []
    assert decoder.calls == calls
    assert decoder.rows_per_decode == [1] * (taken - 1)


# Several tokens at once, and tokens that turn out wrong


class Script:
    """A search with scripted choices; it records the logits."""

    def __init__(self, *choices: StepResult) -> None:
        self._choices = iter(choices)
        self.shown: list[list[int]] = []  # the most probable token of each row

    def choose(self, logits: Logits, interrupt: FinishReason | None = None) -> StepResult:
        self.shown.append(logits.argmax(axis=1).tolist())
        return next(self._choices)

    def results(self) -> Sequence[Found]:
        return []


def test_several_tokens_are_read_at_once_and_the_wrong_ones_forgotten() -> None:
    decoder = ScriptedDecoder(counting)
    search = Script(
        StepResult([1, 2, 5], [0], []),
        StepResult([3, 4], [0], [], rejected=1),
        StepResult([5], [0], []),
        StepResult([6], [0], [], rejected=0),
        StepResult([], [], []),
    )
    assert len(list(decode(lambda: decoder, [[0]], search))) == 5
    assert search.shown == [[1], [2, 3, 6], [4, 5], [6], [7]]
    assert decoder.texts == [[0, 1, 2, 3, 4, 5, 6]]
    assert [name for name, _ in decoder.calls] == [
        *("prefill", "read", "forget", "read", "decode", "decode")
    ]


def test_rows_may_become_more() -> None:
    decoder = ScriptedDecoder(counting)
    search = Script(
        StepResult([1, 2, 3], [0, 0, 0], []),
        StepResult([2, 4, 5], [2, 0, 0], []),
        StepResult([], [], []),
    )
    list(decode(lambda: decoder, [[0]], search))
    assert search.shown == [[1], [2, 3, 4], [3, 5, 6]]
    assert decoder.texts == [[0, 3, 2], [0, 1, 4], [0, 1, 5]]


# Ending from outside


def after(steps: int, reason: FinishReason) -> Callable[[], FinishReason | None]:
    """Return a function that returns None ``steps`` times, and then ``reason``."""
    answers: Iterator[FinishReason | None] = chain(repeat(None, steps), repeat(reason))
    return lambda: next(answers)


def test_cancelled_before_the_first_step_there_is_no_decoder() -> None:
    decoder = ScriptedDecoder(counting)
    assert run(decoder, [[0], [1]], 5, after(0, "cancelled")) == [([], "cancelled")] * 2
    assert decoder.calls == []


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_cancelled_later_each_text_has_a_token_a_step(steps: int) -> None:
    expected = [
        ([1, 2, 3][:steps], "cancelled"),
        ([6, 7][:steps], "eos" if steps > 1 else "cancelled"),
    ]
    assert run(ScriptedDecoder(counting), [[0], [5]], 5, after(steps, "cancelled")) == expected


def test_a_time_limit_of_zero_gives_one_token() -> None:
    """The caller gets at least the first token."""
    found = run(ScriptedDecoder(counting), [[0], [6], [5]], [5, 5, 1], after(0, "time"))
    assert found == [([1], "time"), ([7], "eos"), ([6], "length")]
