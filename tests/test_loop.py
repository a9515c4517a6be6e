"""The decoding loop on a scripted decoder: answers worked out by hand, no ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseq.runtime.errors import BundleError
from edgeseq.runtime.loop import decode
from edgeseq.runtime.options import GenerationOptions
from edgeseq.runtime.search import NewToken, RowSearch, close_gaps

VOCABULARY = 8
EOS = 7
Ids = list[int]
Rule = Callable[[Ids], Sequence[float]]
Finished = tuple[Ids, str | None]


def one_hot(token: int) -> Sequence[float]:
    return [float(i == token) for i in range(VOCABULARY)]


def counting(ids: Ids) -> Sequence[float]:
    """The token after the last one is the most probable: 1, 2, 3, … and in the end EOS."""
    return one_hot((ids[-1] + 1) % VOCABULARY)


@dataclass
class ScriptedDecoder:
    """Follows what every row has read, gives the logits of ``rule`` and records its calls.

    Like the real one it gives out the same memory each time, and leaves it dirty.
    """

    rule: Rule = counting
    read: list[Ids] = field(default_factory=list)  # what each row has been fed
    left: list[Ids] = field(default_factory=list)  # the same of rows that have left
    calls: list[tuple[str, list[int]]] = field(default_factory=list)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        self.read = [list(prompt) for prompt in prompts]
        self._memory = np.full((len(prompts), VOCABULARY), np.nan, np.float32)
        self.calls.append(("prefill", [len(prompt) for prompt in prompts]))
        return self._logits()

    def decode(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        for ids, token in zip(self.read, tokens, strict=True):
            ids.append(token)
        self.calls.append(("decode", list(tokens)))
        return self._logits()

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        self.left += [ids for row, ids in enumerate(self.read) if row not in parent_rows]
        self.read = [list(self.read[row]) for row in parent_rows]
        self.calls.append(("select_rows", list(parent_rows)))

    def _logits(self) -> NDArray[np.float32]:
        logits = self._memory[: len(self.read)]
        logits[:] = [self.rule(ids) for ids in self.read]
        return logits

    @property
    def rows_per_decode(self) -> list[int]:
        return [len(rows) for name, rows in self.calls if name == "decode"]

    @property
    def selected(self) -> list[list[int]]:
        return [rows for name, rows in self.calls if name == "select_rows"]


def steps_of(
    decoder: ScriptedDecoder, prompts: Sequence[Ids], limits: Sequence[int] | int, **options: Any
) -> Iterator[Sequence[NewToken]]:
    limits = [limits] * len(prompts) if isinstance(limits, int) else limits
    options.setdefault("eos_token_id", EOS)
    search = RowSearch(prompts, limits, GenerationOptions(**options))
    return decode(lambda: decoder, prompts, search)


def run(
    decoder: ScriptedDecoder, prompts: Sequence[Ids], limits: Sequence[int] | int, **options: Any
) -> list[Finished]:
    """Ids and finish reason of each text; nothing may come after a finish reason."""
    texts: list[Ids] = [[] for _ in prompts]
    reasons: list[str | None] = [None] * len(prompts)
    for new_tokens in steps_of(decoder, prompts, limits, **options):
        for new in new_tokens:
            assert reasons[new.text] is None
            assert type(new.token) is int
            texts[new.text].append(new.token)
            reasons[new.text] = new.finish_reason
    return list(zip(texts, reasons, strict=True))


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
    assert run(ScriptedDecoder(), [prompt], limit) == [(ids, reason)]


def test_of_equals_the_first_is_taken() -> None:
    assert run(ScriptedDecoder(lambda ids: [0, 2, 1, 2, 0, 0, 0, 0]), [[0]], 1) == [([1], "length")]


def test_logits_may_be_negative_or_minus_infinity() -> None:
    rule = [-np.inf] * 5 + [-9.0, -8.5, -9.0]
    assert run(ScriptedDecoder(lambda ids: rule), [[0]], 2) == [([6, 6], "length")]


@pytest.mark.parametrize(("eos", "ids"), [((3, 5), [1, 2, 3]), (None, [1, 2, 3, 4, 5, 6, 7, 0])])
def test_several_ends_or_none(eos: tuple[int, ...] | None, ids: Ids) -> None:
    assert run(ScriptedDecoder(), [[0]], 8, eos_token_id=eos)[0][0] == ids


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
    assert run(ScriptedDecoder(), PROMPTS, 5) == ANSWERS


def test_a_row_gets_what_it_gets_alone() -> None:
    assert [run(ScriptedDecoder(), [prompt], 5)[0] for prompt in PROMPTS] == ANSWERS


def test_finished_rows_leave_the_batch() -> None:
    decoder = ScriptedDecoder()
    run(decoder, PROMPTS, 5)
    assert decoder.calls == [
        ("prefill", [1, 1, 2, 1, 1]),
        ("select_rows", [0, 1, 2, 4]),  # text 3 has ended
        ("decode", [1, 6, 3, 4]),
        ("select_rows", [0, 3, 2]),  # text 1: the last row fills its gap
        ("decode", [2, 5, 4]),
        ("decode", [3, 6, 5]),
        ("select_rows", [0, 2]),  # text 4
        ("decode", [4, 6]),
    ]


def test_every_row_reads_its_own_text_and_never_its_last_token() -> None:
    decoder = ScriptedDecoder()
    run(decoder, PROMPTS, 5)
    expected = [[*prompt, *ids[:-1]] for prompt, (ids, _) in zip(PROMPTS, ANSWERS, strict=True)]
    assert sorted(decoder.left + decoder.read) == sorted(expected)


def test_limits_are_each_rows_own() -> None:
    decoder = ScriptedDecoder()
    finished = run(decoder, [[0], [0], [0], [0]], [3, 1, 4, 2])
    assert [ids for ids, _ in finished] == [[1, 2, 3], [1], [1, 2, 3, 4], [1, 2]]
    assert {reason for _, reason in finished} == {"length"}
    assert decoder.rows_per_decode == [3, 2, 1]
    assert decoder.selected == [[0, 3, 2], [0, 2], [1]]


@pytest.mark.parametrize(("prompts", "limit"), [([[0]], 5), ([[0], [1], [2]], 4), ([[6], [6]], 1)])
def test_rows_that_stay_as_they_are_are_not_selected(prompts: list[Ids], limit: int) -> None:
    decoder = ScriptedDecoder()
    run(decoder, prompts, limit)
    assert decoder.selected == []
    assert decoder.rows_per_decode == [len(prompts)] * (limit - 1)


def test_each_step_tells_every_row_that_still_goes_on() -> None:
    steps = [list(step) for step in steps_of(ScriptedDecoder(), [[5], [0], [6]], 3)]
    assert steps == [
        [NewToken(0, 6, None), NewToken(1, 1, None), NewToken(2, 7, "eos")],
        [NewToken(0, 7, "eos"), NewToken(1, 2, None)],
        [NewToken(1, 3, "length")],
    ]


# A caller that looks before the end


def test_nothing_is_read_before_the_first_step_is_asked_for() -> None:
    decoder = ScriptedDecoder()
    steps = steps_of(decoder, [[0]], 5)
    assert decoder.calls == []
    next(steps)
    assert decoder.calls == [("prefill", [1])]


def test_the_decoder_is_made_when_the_first_step_is_asked_for() -> None:
    made: list[ScriptedDecoder] = []

    def new_decoder() -> ScriptedDecoder:
        made.append(ScriptedDecoder())
        return made[-1]

    steps = decode(new_decoder, [[0]], RowSearch([[0]], [3], GenerationOptions()))
    assert made == []
    assert len(list(steps)) == 3
    assert len(made) == 1


def test_a_token_is_told_before_the_next_one_is_computed() -> None:
    decoder = ScriptedDecoder()
    for number, _ in enumerate(steps_of(decoder, [[0]], 5)):
        assert len(decoder.calls) == number + 1


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_closing_early_ends_the_work(taken: int) -> None:
    decoder = ScriptedDecoder()
    steps = steps_of(decoder, [[0], [6]], 5)
    for _ in range(taken):
        next(steps)
    calls = list(decoder.calls)
    steps.close()  # type: ignore[attr-defined]
    assert list(steps) == []
    assert decoder.calls == calls
    assert decoder.rows_per_decode == [1] * (taken - 1)


# Processors in the loop


def stubborn(ids: Ids) -> Sequence[float]:
    """The same whatever was read: 2, then 1, then 3 are the most probable, 4 is negative."""
    return [0.5, 3.0, 4.0, 2.0, -1.0, 0.5, 0.5, 0.5]


def test_without_processors_it_repeats() -> None:
    assert run(ScriptedDecoder(stubborn), [[0]], 4)[0][0] == [2, 2, 2, 2]


def test_repetition_penalty_counts_prompt_and_new_tokens_once() -> None:
    # Once 2 has come it is at 4/1.5 = 2.67, below 1; once 1 has come too, 1 and 3 are at 2.
    assert run(ScriptedDecoder(stubborn), [[0]], 4, repetition_penalty=1.5) == [
        ([2, 1, 2, 2], "length")
    ]
    # With both in the prompt, 2 and 3 are at 2: of equals the first.
    assert run(ScriptedDecoder(stubborn), [[1, 2]], 1, repetition_penalty=2.0)[0][0] == [2]
    # Here 1 and 2 are at 1.2 and 1.6: 3 comes first and falls to 0.8.
    assert run(ScriptedDecoder(stubborn), [[1, 2]], 2, repetition_penalty=2.5)[0][0] == [3, 2]


def test_repetition_penalty_makes_negative_logits_more_negative() -> None:
    rule = [-1.0, -1.2] + [-9.0] * 6
    assert run(ScriptedDecoder(lambda ids: rule), [[0]], 1, repetition_penalty=1.5)[0][0] == [1]


def test_repetition_penalty_looks_at_the_rows_own_text() -> None:
    prompts = [[0], [2], [1, 2]]
    together = run(ScriptedDecoder(stubborn), prompts, [2, 1, 3], repetition_penalty=2.5)
    alone = [
        run(ScriptedDecoder(stubborn), [prompt], limit, repetition_penalty=2.5)[0]
        for prompt, limit in zip(prompts, [2, 1, 3], strict=True)
    ]
    assert together == alone
    assert [ids for ids, _ in together] == [[2, 1], [1], [3, 2, 2]]


@pytest.mark.parametrize(
    ("size", "ids"),
    [
        (1, [2, 1, 3, 5, 6, 7]),  # every token once: 0 is in the prompt, then the end
        (2, [2, 2, 1, 2, 3, 2, 0]),  # 22, 21, 12, 23, 32, 20: no pair twice
        (3, [2, 2, 2, 1, 2, 2, 3]),
        (0, [2, 2, 2, 2, 2, 2, 2]),
    ],
)
def test_ngrams_come_once(size: int, ids: Ids) -> None:
    decoder = ScriptedDecoder(stubborn)
    assert run(decoder, [[0]], 7, no_repeat_ngram_size=size)[0][0] == ids


def test_ngrams_of_the_prompt_count() -> None:
    decoder = ScriptedDecoder(stubborn)
    assert run(decoder, [[2, 1, 3, 2]], 3, no_repeat_ngram_size=2)[0][0] == [2, 3, 1]


def test_ngrams_are_the_rows_own_after_others_have_left() -> None:
    prompts, limits = [[0], [2, 2], [3, 2]], [1, 4, 6]
    together = run(ScriptedDecoder(stubborn), prompts, limits, no_repeat_ngram_size=2)
    assert together == [
        run(ScriptedDecoder(stubborn), [prompt], limit, no_repeat_ngram_size=2)[0]
        for prompt, limit in zip(prompts, limits, strict=True)
    ]


# Sampling


def wavering(ids: Ids) -> Sequence[float]:
    """Nearly even, and different after each token; the end is rare."""
    return [0.1 * ((3 * ids[-1] + i) % VOCABULARY) for i in range(VOCABULARY - 1)] + [-2.0]


SAMPLING = {"do_sample": True, "top_k": 0}


def sampled(prompts: Sequence[Ids], limits: Sequence[int] | int, **options: Any) -> list[Finished]:
    return run(ScriptedDecoder(wavering), prompts, limits, **{**SAMPLING, **options})


def test_the_same_seed_gives_the_same_text_and_another_another() -> None:
    texts = {seed: sampled([[0]], 40, seed=seed) for seed in range(5)}
    assert all(sampled([[0]], 40, seed=seed) == text for seed, text in texts.items())
    assert len({str(text) for text in texts.values()}) == 5


def test_without_a_seed_every_call_and_every_row_is_different() -> None:
    once, twice = (sampled([[0], [0]], 30, eos_token_id=None) for _ in range(2))
    assert len({str(text) for text in once + twice}) == 4


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}, {"repetition_penalty": 1.3}],
    ids=str,
)
def test_a_sampled_row_gets_what_it_gets_alone(options: dict[str, Any]) -> None:
    prompts, limits = [[0], [5], [1, 2], [6], [3], [0]], [30, 3, 25, 12, 1, 30]
    together = sampled(prompts, limits, seed=11, **options)
    assert together == [
        sampled([prompt], [limit], seed=11, **options)[0]
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    assert together[0] == together[5]
    assert len(set(together[0][0])) > 2


def test_top_k_of_one_is_greedy_search() -> None:
    greedy = run(ScriptedDecoder(wavering), [[0], [4]], 12)
    assert sampled([[0], [4]], 12, top_k=1, seed=3) == greedy


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.35}, {"temperature": 0.01}], ids=str)
def test_only_probable_tokens_are_drawn(options: dict[str, Any]) -> None:
    ids = sampled([[0]], 200, seed=0, eos_token_id=None, **options)[0][0]
    before = [0, *ids[:-1]]
    ranks = [
        sorted(wavering([last]), reverse=True).index(wavering([last])[token])
        for last, token in zip(before, ids, strict=True)
    ]
    assert max(ranks) <= (0 if "temperature" in options else 2)
    assert ("temperature" in options) or max(ranks) > 0


@pytest.mark.parametrize(
    ("live", "expected"),
    [([], []), ([0, 1], [0, 1]), ([1], [1]), ([1, 2, 3], [3, 1, 2]), ([0, 3, 4], [0, 4, 3])],
)
def test_the_last_rows_fill_the_gaps(live: list[int], expected: list[int]) -> None:
    assert close_gaps(live) == expected


def test_logits_that_are_no_numbers_are_refused() -> None:
    search = RowSearch([[1]], [3], GenerationOptions())
    with pytest.raises(BundleError, match="damaged"):
        search.choose(np.full((1, 4), np.nan, np.float32))
