"""Generation options: defaults, precedence of bundle and caller, and errors."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from functools import partial
from typing import Any

import pytest
from transformers import GenerationConfig

from edgeseq.runtime import Model, OptionError
from edgeseq.runtime.bundle.manifest import Kind
from edgeseq.runtime.request.options import GenerationOptions
from edgeseq.runtime.request.resolving import resolve_options
from tests.support.option_cases import (
    BEAMS,
    BESIDE,
    ENDING,
    EXAMPLES,
    GROUPS,
    SAMPLING,
    options_error,
    resolve,
)

OURS = {
    "seed",
    "logprobs",
    "presence_penalty",
    "frequency_penalty",
    "truncation",
}  # options that Transformers does not have
NAN = float("nan")


# Defaults


@pytest.mark.parametrize("name", [f.name for f in fields(GenerationOptions) if f.name not in OURS])
def test_defaults_are_those_of_transformers(name: str) -> None:
    expected = getattr(GenerationConfig(), name)
    if name == "max_length":
        # Transformers' 20 means 20 *new* tokens where the caller said nothing else.
        assert GenerationOptions().new_tokens(7) == GenerationOptions().new_tokens(1) == expected
        expected = None
    value = getattr(resolve({}, {}), name)
    assert value == expected
    assert type(value) is type(expected)


def test_our_own_options_are_few() -> None:
    assert {f.name for f in fields(GenerationOptions)} - set(vars(GenerationConfig())) == OURS


def test_options_are_frozen_and_named() -> None:
    options = GenerationOptions(max_new_tokens=3)
    with pytest.raises(FrozenInstanceError):
        options.max_new_tokens = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        GenerationOptions(3)  # type: ignore[misc]


# Precedence


def test_every_option_has_an_example() -> None:
    assert set(EXAMPLES) == {f.name for f in fields(GenerationOptions)}


@pytest.mark.parametrize(("name", "values"), EXAMPLES.items())
def test_the_bundle_overrides_the_defaults_and_the_caller_both(
    name: str, values: tuple[Any, Any]
) -> None:
    bundle, caller = values
    beside = BESIDE.get(name, {})
    from_bundle = resolve({**beside, name: bundle}, {})
    from_both = resolve({**beside, name: bundle}, {name: caller})
    assert getattr(from_bundle, name) == bundle
    assert getattr(from_both, name) == caller
    assert from_both == resolve(beside, {name: caller})


@pytest.mark.parametrize(("name", "values"), EXAMPLES.items())
def test_the_callers_none_restores_the_default(name: str, values: tuple[Any, Any]) -> None:
    """None stands for the default of an option that cannot be None."""
    if name in ("num_beam_groups", "diversity_penalty", "pad_token_id"):
        beside: dict[str, Any] = BEAMS
    else:
        beside = BESIDE.get(name, {})
    options = resolve({**beside, name: values[0]}, {name: None})
    assert options == resolve(beside, {})
    assert getattr(options, name) == getattr(GenerationOptions(), name)


@pytest.mark.parametrize("bundle", [{"max_length": 50}, {"max_new_tokens": 50}])
@pytest.mark.parametrize(
    ("caller", "expected"), [({"max_length": 9}, 6), ({"max_new_tokens": 9}, 9)]
)
def test_the_callers_limit_replaces_either_of_the_bundles(
    bundle: dict[str, int], caller: dict[str, int], expected: int
) -> None:
    assert resolve(bundle, caller).new_tokens(3) == expected


def test_the_callers_none_removes_the_bundles_limit() -> None:
    options = resolve({"max_new_tokens": 5}, {"max_new_tokens": None})
    assert options.new_tokens(1) == GenerationOptions().new_tokens(1)


def test_the_callers_options_and_the_bundles_are_left_as_they_were() -> None:
    bundle, caller = {"max_length": 30, "eos_token_id": [1, 2]}, {"max_new_tokens": 3}
    resolve(bundle, caller)
    assert bundle == {"max_length": 30, "eos_token_id": [1, 2]}
    assert caller == {"max_new_tokens": 3}


# Unknown options


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_new_token", "max_new_tokens"),
        ("max_tokens", "max_new_tokens"),
        ("temprature", "temperature"),
        ("topk", "top_k"),
        ("do_samples", "do_sample"),
        ("eos_token_ids", "eos_token_id"),
    ],
)
def test_an_unknown_option_is_refused_with_a_suggestion(name: str, meant: str) -> None:
    message = options_error({name: 1})
    assert repr(name) in message
    assert meant in message


@pytest.mark.parametrize("name", ["qqq", "penalty_alpha", "use_cache", "guidance_scale"])
def test_an_option_like_no_other_is_refused_without_a_suggestion(name: str) -> None:
    message = options_error({name: 1})
    assert (
        message == f"There is no option {name!r} in edgeseq: GenerationOptions lists all options."
    )


@pytest.mark.parametrize("name", ["num_assistant_tokens", "penalty_alpha", "use_cache"])
def test_unknown_options_of_a_bundle_are_left_out(name: str) -> None:
    assert resolve({name: 4}, {}) == GenerationOptions()


# Options without effect


WITHOUT_EFFECT = {
    **dict.fromkeys(
        ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        "do_sample",
    ),
    "seed": "do_sample",
    "length_penalty": "num_beams",
    "early_stopping": "num_beams",
    "diversity_penalty": "num_beam_groups",
    "pad_token_id": "num_beam_groups",
    "max_matching_ngram_size": "prompt_lookup_num_tokens",
    "min_length": "eos_token_id",
    "min_new_tokens": "eos_token_id",
    "exponential_decay_length_penalty": "eos_token_id",
}


@pytest.mark.parametrize(("name", "needed"), WITHOUT_EFFECT.items())
def test_options_without_effect(name: str, needed: str) -> None:
    value = EXAMPLES[name][0]
    message = options_error({name: value})
    assert message.startswith(f"{name} has no effect ")
    assert needed in message
    default = getattr(GenerationOptions(), needed)
    assert options_error({name: value, needed: default}) == message
    resolve({name: value}, {needed: default})
    resolve(BESIDE[name], {name: value})
    resolve({}, {**BESIDE[name], name: value})


@pytest.mark.parametrize("ends", [None, [], ()])
def test_options_that_need_an_eos_token_are_refused_without_one(ends: Any) -> None:
    assert "eos_token_id" in options_error({"min_new_tokens": 2, "eos_token_id": ends}, ENDING)


def test_sampling_options_when_the_caller_turns_sampling_off() -> None:
    assert "temperature" in options_error({"do_sample": False, "temperature": 0.5}, SAMPLING)
    options = resolve({**SAMPLING, "temperature": 0.5}, {"do_sample": False})
    assert not options.do_sample


@pytest.mark.parametrize("kind", ["max", "min"])
def test_both_limits_at_once(kind: str) -> None:
    message = options_error({f"{kind}_length": 9, f"{kind}_new_tokens": 3}, ENDING)
    assert message.startswith(f"{kind}_length has no effect with {kind}_new_tokens")


def test_both_limits_from_the_bundle() -> None:
    both = {"max_length": 9, "max_new_tokens": 3}
    assert resolve(both, {}).new_tokens(1) == 3


def test_the_callers_shortest_length_replaces_either_of_the_bundles() -> None:
    bundle = {**ENDING, "min_length": 5, "min_new_tokens": 6}
    assert resolve(bundle, {"min_new_tokens": 2}) == resolve(ENDING, {"min_new_tokens": 2})
    assert resolve(bundle, {"min_length": 2}) == resolve(ENDING, {"min_length": 2})


@pytest.mark.parametrize(
    ("name", "kind"),
    [("decoder_start_token_id", "decoder-only"), ("bos_token_id", "encoder-decoder")],
)
def test_options_of_the_other_kind_of_model(name: str, kind: Kind) -> None:
    start = {"decoder_start_token_id": 0}
    message = options_error({name: 1}, start, resolve=partial(resolve_options, kind=kind))
    assert message.startswith(f"{name} has no effect with {kind} models")
    resolve_options({name: 1}, {}, kind)
    assert resolve_options({name: 1}, {name: None}, kind) == GenerationOptions()


def test_a_decoder_without_a_start_token_starts_from_bos() -> None:
    """As in Transformers' ``generate``."""
    options = resolve_options({}, {"bos_token_id": 3}, "encoder-decoder")
    assert options.decoder_start == 3


def test_a_model_refuses_options_of_the_other_kind(model: Model) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(OptionError, match=r"^decoder_start_token_id has no effect"):
            call("a", decoder_start_token_id=0)


@pytest.mark.parametrize("value", [0.0, -1.0, "hot", NAN])
def test_a_bundles_value_without_effect_is_not_even_checked(value: Any) -> None:
    assert not resolve({"temperature": value}, {}).do_sample


# Limits


@pytest.mark.parametrize(
    ("options", "prompt_length", "expected"),
    [
        ({}, 5, 20),
        ({}, 500, 20),
        ({"max_new_tokens": 3}, 500, 3),
        ({"max_length": 10}, 9, 1),
        ({"max_length": 10}, 1, 9),
    ],
)
def test_new_tokens(options: dict[str, int], prompt_length: int, expected: int) -> None:
    assert resolve({}, options).new_tokens(prompt_length) == expected


@pytest.mark.parametrize("prompt_length", [10, 11, 500])
def test_a_prompt_that_fills_max_length(prompt_length: int) -> None:
    message = options_error({"max_length": 10}, prompt_length=prompt_length)
    assert "10" in message
    assert str(prompt_length) in message
    assert "max_new_tokens" in message


def test_a_prompt_that_fills_max_length_of_a_model(model: Model) -> None:
    with pytest.raises(OptionError, match=r"max_length is 4\b.*\b6\b"):
        model.generate_ids([[1, 2], [1, 2, 3, 4, 5, 6]], max_length=4)
    results = model.generate_ids([[1, 2], [1, 2, 3]], max_length=4, eos_token_id=None)
    assert [result.generated_tokens for result in results] == [2, 1]


@pytest.mark.parametrize(
    ("bundle", "caller", "strategy"),
    [
        (GROUPS, {"num_beams": 1}, "greedy"),
        ({**BEAMS, "num_return_sequences": 3}, {"num_beams": 1}, "greedy"),
        ({**SAMPLING, "num_return_sequences": 3}, {"do_sample": False}, "greedy"),
        ({"prompt_lookup_num_tokens": 3}, SAMPLING, "sampling"),
        ({"prompt_lookup_num_tokens": 3}, {"num_beams": 2}, "beam search"),
        (GROUPS, {"do_sample": True}, "beam search"),
        (GROUPS, {"num_beams": 3}, "beam search"),
        ({**BEAMS, "num_return_sequences": 4}, {"num_beams": 2}, "beam search"),
    ],
)
def test_the_bundles_options_for_another_strategy_are_left_unused(
    bundle: dict[str, Any], caller: dict[str, Any], strategy: str
) -> None:
    assert resolve(bundle, caller).strategy == strategy
