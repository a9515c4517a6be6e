"""Generation options: their defaults, who overrides whom, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from functools import partial
from typing import Any

import numpy as np
import pytest
from transformers import GenerationConfig

from edgeseq.runtime import Model, OptionError
from edgeseq.runtime.manifest import Kind
from edgeseq.runtime.options import GenerationOptions, resolve_options

NAN, INF = float("nan"), float("inf")
OURS = {"seed"}  # options that Transformers does not have
SAMPLING = {"do_sample": True}
KINDS: dict[str, Kind] = {"decoder_start_token_id": "encoder-decoder"}  # the others: decoder-only


def resolve(bundle: dict[str, Any], caller: dict[str, Any]) -> GenerationOptions:
    """The options of a model of the kind that the caller's suit."""
    kinds = {kind for name, kind in KINDS.items() if name in caller}
    return resolve_options(bundle, caller, kinds.pop() if kinds else "decoder-only")


def refusal(
    caller: dict[str, Any],
    bundle: dict[str, Any] | None = None,
    prompt_length: int = 1,
    resolve: Callable[..., GenerationOptions] = resolve,
) -> str:
    """The one sentence of the ``OptionError`` that the options raise."""
    with pytest.raises(OptionError) as caught:
        resolve(bundle or {}, caller).new_tokens(prompt_length)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.endswith((".", "?"))
    return message


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

EXAMPLES: dict[str, tuple[Any, Any]] = {
    "max_new_tokens": (7, 9),
    "do_sample": (True, False),
    "temperature": (0.5, 0.7),
    "top_k": (5, 0),
    "top_p": (0.5, 0.9),
    "seed": (1, 2),
    "repetition_penalty": (1.2, 1.0),
    "no_repeat_ngram_size": (3, 0),
    "eos_token_id": (5, 6),
    "bos_token_id": (5, 6),
    "decoder_start_token_id": (5, 6),
    "max_length": (30, 40),
}


def test_every_option_has_an_example() -> None:
    assert set(EXAMPLES) == {f.name for f in fields(GenerationOptions)}


@pytest.mark.parametrize(("name", "values"), EXAMPLES.items())
def test_the_bundle_goes_over_the_defaults_and_the_caller_over_both(
    name: str, values: tuple[Any, Any]
) -> None:
    bundle, caller = values
    sampling = {} if name == "do_sample" else SAMPLING
    from_bundle = resolve({**sampling, name: bundle}, {})
    from_both = resolve({**sampling, name: bundle}, {name: caller})
    assert getattr(from_bundle, name) == bundle
    assert getattr(from_both, name) == caller
    assert from_both == resolve(sampling, {name: caller})


@pytest.mark.parametrize("bundle", [{"max_length": 50}, {"max_new_tokens": 50}])
@pytest.mark.parametrize(
    ("caller", "expected"), [({"max_length": 9}, 6), ({"max_new_tokens": 9}, 9)]
)
def test_the_callers_limit_replaces_either_of_the_bundles(
    bundle: dict[str, int], caller: dict[str, int], expected: int
) -> None:
    assert resolve(bundle, caller).new_tokens(3) == expected


def test_the_callers_none_takes_the_bundles_end_away() -> None:
    assert resolve({"eos_token_id": 5}, {"eos_token_id": None}).eos_token_ids == ()


def test_the_callers_none_takes_the_bundles_limit_away() -> None:
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
    message = refusal({name: 1})
    assert repr(name) in message
    assert meant in message


def test_an_option_like_no_other_is_refused_with_the_list() -> None:
    message = refusal({"qqq": 1})
    assert all(f.name in message for f in fields(GenerationOptions))


@pytest.mark.parametrize("name", ["num_beams", "penalty_alpha", "cache_implementation"])
def test_what_a_bundle_says_and_we_do_not_know_is_left_out(name: str) -> None:
    assert resolve({name: 4}, {}) == GenerationOptions()


# Values

BAD_COUNTS = [0, -1, 1.5, 2.0, "3", True, [3], NAN, np.float64(3)]
BAD_SIZES = [-1, 1.5, 2.0, "3", True, False, None, [3], np.float64(3)]
BAD_FACTORS = [0, 0.0, -0.5, NAN, INF, -INF, "0.5", None, True, [0.5], 1j, np.float32(0), 10**400]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_new_tokens", value) for value in BAD_COUNTS),
        *(("max_length", value) for value in BAD_COUNTS),
        *(("do_sample", value) for value in (0, 1, "yes", None, "False", [])),
        *(("temperature", value) for value in BAD_FACTORS),
        *(("top_k", value) for value in BAD_SIZES),
        *(("top_p", value) for value in [*BAD_FACTORS, 1.0001, 2, 50] if value != 0),
        *(("seed", value) for value in (-1, 1.0, "1", True, [1])),
        *(("repetition_penalty", value) for value in BAD_FACTORS),
        *(("no_repeat_ngram_size", value) for value in BAD_SIZES),
        *(("eos_token_id", value) for value in (-1, 0.5, "0", True, [0, -1], [None], [[1]], {})),
        *(("bos_token_id", value) for value in (-1, 0.5, "0", True, [0])),
        *(("decoder_start_token_id", value) for value in (-1, 0.5, "0", True, [0])),
    ],
    ids=lambda item: str(item)[:20],
)
def test_an_invalid_value_is_named(name: str, value: Any) -> None:
    bundle = SAMPLING if name in ("temperature", "top_k", "top_p", "seed") else {}
    message = refusal({name: value}, bundle)
    assert message.startswith(f"{name} is ")
    assert "must" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 10**9),
        ("max_length", 10**9),
        ("temperature", 2),
        ("temperature", 1e-3),
        ("temperature", 1e6),
        ("top_k", 0),
        ("top_k", 10**9),
        ("top_p", 1),
        ("top_p", 1e-9),
        ("seed", 0),
        ("seed", 2**64),
        ("repetition_penalty", 1),
        ("repetition_penalty", 0.5),
        ("no_repeat_ngram_size", 0),
        ("eos_token_id", 0),
        ("decoder_start_token_id", 0),
    ],
)
def test_a_value_that_makes_sense_is_taken(name: str, value: Any) -> None:
    bundle = SAMPLING if name in ("temperature", "top_k", "top_p", "seed") else {}
    assert getattr(resolve(bundle, {name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", np.int64(5)),
        ("max_length", np.int32(30)),
        ("do_sample", np.True_),
        ("temperature", np.float32(0.5)),
        ("temperature", np.float64(0.5)),
        ("top_k", np.int64(5)),
        ("top_p", np.float32(0.5)),
        ("seed", np.int64(5)),
        ("repetition_penalty", np.float32(1.5)),
        ("no_repeat_ngram_size", np.int64(2)),
        ("eos_token_id", np.int64(5)),
        ("eos_token_id", [np.int64(5)]),
        ("bos_token_id", np.int64(5)),
        ("decoder_start_token_id", np.int64(5)),
    ],
    ids=lambda item: item if isinstance(item, str) else type(item).__name__,
)
def test_numpys_scalars_are_numbers(name: str, value: Any) -> None:
    """They come out of every computation with numpy."""
    bundle = SAMPLING if name in ("temperature", "top_k", "top_p", "seed") else {}
    plain = value.item() if isinstance(value, np.generic) else [item.item() for item in value]
    assert resolve(bundle, {name: value}) == resolve(bundle, {name: plain})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ()), (0, (0,)), ([3, 5], (3, 5)), ((3, 5), (3, 5)), ([7], (7,)), ([], ())],
)
def test_one_end_or_several_or_none(value: Any, expected: tuple[int, ...]) -> None:
    assert resolve({}, {"eos_token_id": value}).eos_token_ids == expected
    assert resolve({"eos_token_id": value}, {}).eos_token_ids == expected


# Options without effect


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.5), ("top_k", 5), ("top_p", 0.5), ("seed", 1)]
)
@pytest.mark.parametrize("caller", [{}, {"do_sample": False}])
def test_sampling_options_without_sampling(name: str, value: Any, caller: dict[str, Any]) -> None:
    message = refusal({**caller, name: value})
    assert name in message
    assert "do_sample" in message
    resolve({name: value}, caller)
    resolve(SAMPLING, {name: value})
    resolve({}, {**SAMPLING, name: value})


def test_sampling_options_when_the_caller_turns_sampling_off() -> None:
    assert "temperature" in refusal({"do_sample": False, "temperature": 0.5}, SAMPLING)
    options = resolve({**SAMPLING, "temperature": 0.5}, {"do_sample": False})
    assert not options.do_sample


def test_both_limits_at_once() -> None:
    message = refusal({"max_length": 9, "max_new_tokens": 3})
    assert "max_length" in message
    assert "max_new_tokens" in message


def test_both_limits_from_the_bundle() -> None:
    both = {"max_length": 9, "max_new_tokens": 3}
    assert resolve(both, {}).new_tokens(1) == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [("decoder_start_token_id", "decoder-only"), ("bos_token_id", "encoder-decoder")],
)
def test_options_of_the_other_kind_of_model(name: str, kind: Kind) -> None:
    start = {"decoder_start_token_id": 0}
    message = refusal({name: 1}, start, resolve=partial(resolve_options, kind=kind))
    assert message.startswith(f"{name} has no effect")
    assert message.endswith(f"{kind}.")
    resolve_options({name: 1}, {}, kind)
    assert resolve_options({name: 1}, {name: None}, kind) == GenerationOptions()


def test_a_decoder_without_a_start_token_starts_from_bos() -> None:
    """As in Transformers' ``generate``."""
    options = resolve_options({}, {"bos_token_id": 3}, "encoder-decoder")
    assert options.decoder_start == 3


def test_an_option_of_the_other_kind_of_model_of_a_model(model: Model) -> None:
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
    message = refusal({"max_length": 10}, prompt_length=prompt_length)
    assert "10" in message
    assert str(prompt_length) in message
    assert "max_new_tokens" in message


def test_a_prompt_that_fills_max_length_of_a_model(model: Model) -> None:
    with pytest.raises(OptionError, match=r"max_length is 4\b.*\b6\b"):
        model.generate_ids([[1, 2], [1, 2, 3, 4, 5, 6]], max_length=4)
    results = model.generate_ids([[1, 2], [1, 2, 3]], max_length=4, eos_token_id=None)
    assert [result.generated_tokens for result in results] == [2, 1]
