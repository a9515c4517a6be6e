"""The properties of ``test_decoding_properties.py`` on real graphs, for a few calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq.runtime import GenerationResult, Model, OptionError
from tests.support.option_strategies import ENDING, WAYS, Call, of_ids, some_of, way_options
from tests.support.output_rules import (
    by_prompt,
    check_suppressed,
    check_token,
    ends_of,
    is_forced,
)
from tests.support.scripted_model import Hashed

VOCABULARY = 320
few = settings(max_examples=150, derandomize=True, database=None, deadline=None)


@pytest.fixture(scope="module", params=["model", "t5_model"])
def real(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[list[int]], dict[str, Any]]:
    way = draw(st.sampled_from(WAYS))
    ids = st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=20)
    several = 1 if way == "prompt lookup" else 3
    prompts = draw(st.lists(ids, min_size=1, max_size=several))
    ends = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40, unique=True))
    options = {"eos_token_id": ends, "max_new_tokens": draw(st.integers(1, 20))}
    options |= draw(way_options(way))
    texts = {name: s for name, s in of_ids(VOCABULARY).items() if name != "stop_strings"}
    return prompts, {**options, **draw(some_of(texts, 3)), **draw(some_of(ENDING, 1))}


def results_of(call: Call, model: Model, **changes: Any) -> list[GenerationResult] | None:
    try:
        return model.generate_ids(call.prompts, **{**call.options, **changes})
    except OptionError as error:
        assert str(error).startswith("No token may come next: ")
        return None


@few
@given(request_=requests())
def test_rules_hold_alone_and_in_a_batch(
    real: Model, request_: tuple[list[list[int]], dict[str, Any]]
) -> None:
    prompts, options = request_
    manifest = real.bundle.manifest
    rule = Hashed(VOCABULARY, 0, 0, ties=False)
    call = Call(rule, manifest.kind, manifest.dimensions.max_positions, prompts, options)
    results = results_of(call, real)
    for prompt, texts in by_prompt(call, results) if results is not None else ():
        check_texts(call, prompt, texts)
        if "prompt_lookup_num_tokens" in options:
            greedy = {"prompt_lookup_num_tokens": None, "max_matching_ngram_size": None}
            alone = results_of(call, real, **greedy)
        else:
            alone = results_of(call._replace(prompts=[prompt]), real)
        assert alone is not None
        assert [text.token_ids for text in alone] == [text.token_ids for text in texts]
        assert [text.finish_reason for text in alone] == [text.finish_reason for text in texts]


def check_texts(call: Call, prompt: list[int], texts: Sequence[GenerationResult]) -> None:
    for text in texts:
        ids = list(text.token_ids)
        assert 1 <= len(ids) == text.generated_tokens <= call.limit(prompt)
        assert not set(ids[:-1]) & set(ends_of(call))
        expected = "eos" if ids[-1] in ends_of(call) else "length"
        assert text.finish_reason == expected
        assert expected == "eos" or len(ids) == call.limit(prompt)
        check_suppressed(call, prompt, ids)
        if not call.options.get("remove_invalid_values"):
            for place in range(len(ids)):
                if not is_forced(call, prompt, place):
                    check_token(call, prompt, ids, place)


@few
@given(request_=requests(), text=st.text("aeh o.upn", min_size=1, max_size=12))
def test_streams_join_to_the_text(
    real: Model, request_: tuple[list[list[int]], dict[str, Any]], text: str
) -> None:
    alone = {"num_return_sequences", "logprobs"}
    options = {name: value for name, value in request_[1].items() if name not in alone}
    try:
        [result] = real.generate(text, **options)
    except OptionError as error:
        assert str(error).startswith("No token may come next: ")
        return
    assert "".join(real.stream(text, **options)) == result.text
    again = real.generate(text, **options)[0]
    assert replace(again, timings=result.timings) == result
