"""Any value of an option is accepted or refused by an ``OptionError`` of one sentence."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq.runtime import Model, OptionError
from edgeseq.runtime.request.controls import CONTROL_NAMES as ARGUMENTS
from edgeseq.runtime.request.options import GenerationOptions
from tests.support.errors import VALUE, assert_one_sentence
from tests.support.option_cases import BEAMS, BESIDE, ENDING, EXAMPLES, GROUPS, SAMPLING
from tests.support.scripted_model import Hashed, scripted_model

OPTIONS = sorted(f.name for f in fields(GenerationOptions))
COUNTS = (*("max_new_tokens", "max_length", "num_beams", "num_return_sequences"),)
LIMITED = {"max_new_tokens": 3}
thoroughly = settings(max_examples=500, derandomize=True, database=None, deadline=None)
keys = st.integers(-2, 9) | st.text(max_size=2) | st.tuples(st.integers(-2, 50)) | st.none()
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 50)
    | st.sampled_from([2**31, 2**63, 2**64, 10**400, -(10**400)])
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.sampled_from(
        [np.float32("nan"), np.int64(3), np.True_, np.array(2), np.array([1.5]), object]
    )
)
values = st.recursive(
    scalars,
    lambda items: (
        st.lists(items, max_size=3)
        | st.lists(items, max_size=3).map(tuple)
        | st.dictionaries(keys, items, max_size=2)
        | st.frozensets(st.integers(0, 5), max_size=2)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def scripted() -> Model:
    return scripted_model(Hashed(40, 0, 2, ties=False), "decoder-only")


def refusal_of(model: Model, options: dict[str, Any]) -> str | None:
    """Return the one sentence of the ``OptionError`` that a call raises; None without an error."""
    try:
        with warnings.catch_warnings(action="error"):
            model.generate_ids([[1, 2]], **options)
    except OptionError as error:
        message = str(error)
        assert_one_sentence(message, ending=VALUE, longest=2000)
        return message
    return None


def limited(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with counts so small that the call is fast."""
    less = {name: min(options[name], 9) for name in COUNTS if type(options.get(name)) is int}
    return {**({} if "max_length" in options else LIMITED), **options, **less}


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=40, derandomize=True, database=None, deadline=None)
@given(value=values)
def test_any_value_of_one_option(scripted: Model, name: str, value: Any) -> None:
    beside = BESIDE.get(name, {})
    refusal_of(scripted, limited({**beside, name: value}))


@thoroughly
@given(
    st.dictionaries(st.sampled_from([*OPTIONS, "num_beam", "", "é"]), values, max_size=3),
    st.sampled_from([{}, SAMPLING, BEAMS, {**BEAMS, **SAMPLING}, GROUPS, ENDING]),
)
def test_any_values_of_several_options(options: dict[str, Any], beside: dict[str, Any]) -> None:
    model = scripted_model(Hashed(40, 0, 2, ties=False), "decoder-only")
    refusal_of(model, limited({**beside, **options}))


@thoroughly
@given(st.lists(st.sampled_from(OPTIONS), max_size=4, unique=True), st.booleans(), st.randoms())
def test_any_good_values_together(names: list[str], second: bool, random: Any) -> None:
    """Each value is valid alone; an error names options that exclude each other."""
    options = {name: random.choice(EXAMPLES[name]) for name in names}
    model = scripted_model(Hashed(40, 0, 2, ties=second), "decoder-only")
    message = refusal_of(model, limited(options))
    assert message is None or any(name in message for name in names) or "No token" in message


NOT_TAKEN: dict[str, list[Any]] = {
    "choices": [[], [""], "ab", 5, ["a", "a"], ["a", 5], {}],
    "logits_processor": [5, "f", [5], [None], {}],
    "prefix_allowed_tokens_fn": [5, "f", [len]],
    "cancel": [5, "f", True, []],
    "regex": [5, b"a", ["a"]],
    "grammar": [5, b"a", ["a"]],
    "json_schema": [5, [], "{"],
    "decoder_input_ids": [[], [1], [[1]], 5],
}


def test_every_argument_has_values_that_are_not_taken() -> None:
    assert set(NOT_TAKEN) == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in NOT_TAKEN.items() for value in values]
)
def test_arguments_that_are_not_taken(scripted: Model, name: str, value: Any) -> None:
    message = refusal_of(scripted, {name: value} if name == "choices" else limited({name: value}))
    assert message is not None
    assert name in message


@pytest.mark.parametrize("one", ["json_schema", "regex", "grammar"])
@pytest.mark.parametrize("other", ["json_schema", "regex", "grammar", "choices"])
def test_one_constraint_at_a_time(scripted: Model, one: str, other: str) -> None:
    if one != other:
        given = {one: "a", other: ["a"] if other == "choices" else "b"}
        message = refusal_of(scripted, given)
        assert message is not None
        assert "has no effect" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bad_words_ids", [[1], [2, 40]]),
        ("sequence_bias", {(1, 40): 1.0}),
        ("suppress_tokens", [1, 40]),
        ("begin_suppress_tokens", [40]),
        ("forced_bos_token_id", 40),
        ("forced_eos_token_id", [1, 10**30]),
    ],
)
def test_ids_beyond_the_vocabulary(scripted: Model, name: str, value: Any) -> None:
    message = refusal_of(scripted, limited({name: value}))
    assert message is not None
    assert message.startswith(f"{name} holds ")
    assert "from 0 to 39" in message


def test_prompt_lookup_of_several_prompts(scripted: Model) -> None:
    with pytest.raises(
        OptionError, match="prompt_lookup_num_tokens takes one prompt at a time, not 2"
    ):
        scripted.generate_ids([[1], [2]], prompt_lookup_num_tokens=3, **LIMITED)


def test_options_that_forbid_every_token_are_refused(scripted: Model) -> None:
    for beside in ({}, SAMPLING, BEAMS, {**BEAMS, **SAMPLING}, {"prompt_lookup_num_tokens": 2}):
        message = refusal_of(scripted, limited({**beside, "suppress_tokens": list(range(40))}))
        assert message is not None
        assert message.startswith("No token may come next: ")
