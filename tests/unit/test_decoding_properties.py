"""Properties of results on scripted models, for random valid options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from edgeseq.runtime import GenerationResult, OptionError, Timings
from tests.support.option_strategies import OF_SEVERAL, Call, calls
from tests.support.output_rules import by_prompt, check_result, check_scores
from tests.support.scripted_model import tokenizer

UNTIMED = Timings(first_token_s=0.0, total_s=0.0)
EXAMPLES = int(os.environ.get("EDGESEQ_EXAMPLES", "500"))


def examples(share: float = 1.0) -> settings:
    return settings(
        max_examples=int(EXAMPLES * share), derandomize=True, database=None, deadline=None
    )


def generate(call: Call, **options: Any) -> list[GenerationResult] | None:
    """Return results without times; None if the options forbid every token."""
    try:
        results = call.model.generate_ids(call.prompts, **call.options, **options)
    except OptionError as error:
        assert str(error).startswith("No token may come next: ")
        event("no token may come next")
        return None
    return [replace(result, timings=UNTIMED) for result in results]


def without(call: Call, *names: str) -> Call:
    return call._replace(options={n: v for n, v in call.options.items() if n not in names})


def assert_same(results: Sequence[GenerationResult], others: Sequence[GenerationResult]) -> None:
    for result, other in zip(results, others, strict=True):
        for name in ("sequence_score", "logprobs"):
            assert getattr(result, name) == pytest.approx(getattr(other, name), abs=1e-4)
        unscored: dict[str, Any] = dict.fromkeys(("sequence_score", "logprobs", "top_logprobs"))
        unscored["prompt_index"] = None  # another in another batch
        assert replace(result, **unscored) == replace(other, **unscored)


@examples()
@given(calls())
def test_results_obey_every_rule(call: Call) -> None:
    results = generate(call)
    for prompt, texts in by_prompt(call, results) if results is not None else ():
        for text in texts:
            check_result(call, prompt, text)
        check_scores(call, prompt, texts)


@examples(0.2)
@given(calls(OF_SEVERAL))
def test_a_prompts_result_does_not_depend_on_the_batch(call: Call) -> None:
    results = generate(call)
    if results is None:
        return
    for prompt, texts in by_prompt(call, results):
        alone = generate(call._replace(prompts=[prompt]))
        assert alone is not None
        assert_same(alone, texts)


@examples(0.3)
@given(calls(prompts=1))
def test_a_streams_pieces_join_to_the_text(call: Call) -> None:
    call = without(call, "logprobs", "num_return_sequences")
    text = tokenizer().decode(call.prompts[0]).strip("\ufffd") or "a"
    try:
        [result] = call.model.generate(text, **call.options)
    except OptionError as error:
        assert str(error).startswith(("No token may come next: ", "max_length is "))
        return
    pieces = list(call.model.stream(text, **call.options))
    assert "".join(pieces) == result.text
    assert all(pieces)


@examples(0.3)
@given(calls(("prompt lookup",)))
def test_prompt_lookup_gives_what_greedy_search_gives(call: Call) -> None:
    greedy = without(call, "prompt_lookup_num_tokens", "max_matching_ngram_size")
    results, expected = generate(call), generate(greedy)
    assert (results is None) == (expected is None)
    if results is not None and expected is not None:
        assert_same(results, expected)


@examples(0.3)
@given(calls(OF_SEVERAL), st.integers(0, 6))
def test_cancelled_after_some_steps(call: Call, steps: int) -> None:
    asked = count()
    results = generate(call, cancel=lambda: next(asked) >= steps)
    whole = generate(call)
    if results is None:
        assert whole is None
        return
    for prompt, texts in by_prompt(call, results):
        for text in texts:
            assert text.generated_tokens <= min(steps, call.limit(prompt))
            assert text.finish_reason in ("cancelled", "eos", "stop", "length")
            if text.finish_reason == "cancelled":
                assert text.generated_tokens == steps
    if whole is not None and "num_beams" not in call.options:
        for text, rest in zip(results, whole, strict=True):
            assert text.token_ids == rest.token_ids[: len(text.token_ids)]
            assert text.finish_reason == "cancelled" or text == rest


@examples(0.1)
@given(calls(("prompt lookup",)), st.integers(0, 6))
def test_cancelled_prompt_lookup(call: Call, steps: int) -> None:
    """A step may add several tokens, all of which are those of greedy search."""
    asked = count()
    results, whole = generate(call, cancel=lambda: next(asked) >= steps), generate(call)
    if results is None or whole is None:
        return
    [result], [rest] = results, whole
    assert result.token_ids == rest.token_ids[: result.generated_tokens]
    assert result.generated_tokens >= min(steps, rest.generated_tokens)
    assert steps or (result.generated_tokens, result.finish_reason) == (0, "cancelled")


@examples(0.1)
@given(calls())
def test_after_the_time_limit_there_is_one_token(call: Call) -> None:
    results = generate(call, max_time=0)
    for prompt, texts in by_prompt(call, results) if results is not None else ():
        for text in texts:
            assert text.generated_tokens == 1
            ends = {"time", "eos", "stop"} if call.limit(prompt) > 1 else {"eos", "stop", "length"}
            assert text.finish_reason in ends
