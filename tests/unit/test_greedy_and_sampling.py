"""Greedy search and sampling on a scripted decoder, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime.errors import BundleError, OptionError
from edgeseq.runtime.request.options import GenerationOptions
from tests.support.scripted_decoder import Ids, ScriptedDecoder
from tests.support.scripted_search import Finished, run, search_for

VOCABULARY = 8


# Processors in the loop


def stubborn(ids: Ids) -> Sequence[float]:
    """Return the same logits after any ids: 2, 1 and 3 are the most probable, 4 is negative."""
    return [0.5, 3.0, 4.0, 2.0, -1.0, 0.5, 0.5, 0.5]


def test_without_processors_the_script_repeats_a_token() -> None:
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
def test_no_ngram_is_repeated(size: int, ids: Ids) -> None:
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
    """Return nearly equal logits that differ after each token; the end is rare."""
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


def test_logits_that_are_no_numbers_are_refused() -> None:
    search = search_for([[1]], 3, GenerationOptions())
    with pytest.raises(BundleError, match="damaged"):
        search.choose(np.full((1, 4), np.nan, np.float32))


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 0}], ids=str)
def test_options_that_forbid_every_token_are_an_option_error(sampling: dict[str, Any]) -> None:
    options = {"suppress_tokens": (2, 3, 4, 5, 6, 7), "no_repeat_ngram_size": 1, **sampling}
    with pytest.raises(OptionError, match=r"^No token may come next: .*\.$"):
        run(ScriptedDecoder(wavering), [[0]], 3, **options)


# Several texts a prompt


def test_several_texts_of_a_prompt_become_rows_after_the_first_step() -> None:
    decoder = ScriptedDecoder(wavering)
    options = {**SAMPLING, "seed": 4, "eos_token_id": None}
    texts = run(decoder, [[0], [5]], 6, num_return_sequences=3, **options)
    assert len({str(ids) for ids, _ in texts[:3]}) == 3
    assert decoder.calls[:2] == [("prefill", [1, 1]), ("select_rows", [0, 0, 0, 1, 1, 1])]
    assert decoder.rows_per_decode == [6] * 5
    alone = [run(ScriptedDecoder(wavering), [[prompt]], 6, **options)[0] for prompt in (0, 5)]
    assert [texts[0], texts[3]] == alone  # the first is the same however many are asked for


def test_texts_that_end_with_the_first_step_become_no_rows() -> None:
    decoder = ScriptedDecoder(wavering)
    run(
        decoder,
        [[0], [5]],
        [1, 3],
        do_sample=True,
        seed=0,
        num_return_sequences=2,
        eos_token_id=None,
    )
    assert decoder.selected[0] == [1, 1]
