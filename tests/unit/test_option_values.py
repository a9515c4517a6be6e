"""Accepted values of options, and the errors for other values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime.request.options import GenerationOptions
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

NAN, INF = float("nan"), float("inf")

# Values

NO_INTEGERS: list[Any] = [-1, 1.5, 2.0, "3", True, [3], {}, NAN, 1j, np.float64(3), np.True_]
NO_NUMBERS: list[Any] = [NAN, INF, -INF, "0.5", True, [0.5], {}, 1j, 10**400, np.float32("nan")]
NO_FLAGS: list[Any] = [0, 1, "yes", "False", [], 1.0]
NO_IDS: list[Any] = [*NO_INTEGERS[1:4], True, -1, [-1], [5, None], [[5]], ["5"], [True], {5}, b"5"]
COUNTS = ("max_new_tokens", "max_length", "num_beams", "num_beam_groups", "num_return_sequences")
SIZES = ("top_k", "min_new_tokens", "min_length", "no_repeat_ngram_size")
FACTORS = ("temperature", "repetition_penalty", "encoder_repetition_penalty")
PROBABILITIES = ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
LISTS = ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id")
BAD: dict[str, list[Any]] = {
    **{name: [0, *NO_INTEGERS] for name in (*COUNTS, "prompt_lookup_num_tokens")},
    **{name: [0, *NO_INTEGERS] for name in ("max_matching_ngram_size",)},
    **dict.fromkeys((*SIZES, "encoder_no_repeat_ngram_size", "logprobs", "seed"), NO_INTEGERS),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id", "pad_token_id"), NO_INTEGERS),
    **{name: [0, 0.0, -0.5, 1e-7, 1e7, *NO_NUMBERS] for name in FACTORS},
    **{name: [-0.1, 1.0001, 2, *NO_NUMBERS] for name in PROBABILITIES},
    **{name: [[], (), {}, 1.5, *NO_IDS] for name in LISTS},
    **dict.fromkeys(("do_sample", "remove_invalid_values", "renormalize_logits"), NO_FLAGS),
    **{name: [-2.1, 2.1, *NO_NUMBERS] for name in ("presence_penalty", "frequency_penalty")},
    "max_time": [-0.1, *NO_NUMBERS],
    "stop_strings": ["", [], ["a", ""], 5, ["a", 5], b"a", {"a"}, [["a"]], True],
    "eos_token_id": [*NO_IDS, {}],
    "forced_bos_token_id": NO_INTEGERS,
    "length_penalty": [21, -20.5, *NO_NUMBERS],
    "early_stopping": [0, 1, "always", "True", 1.0, [], NAN],
    "truncation": [0, 1, "middle", "True", 512, [], ("left",)],
    "diversity_penalty": [-0.5, 1e7, *NO_NUMBERS],
    "bad_words_ids": [
        [],
        5,
        [5],
        [[]],
        [[5], []],
        [[-1]],
        [["5"]],
        [[5], 5],
        "55",
        {5: 6},
        [[[5]]],
    ],
    "exponential_decay_length_penalty": [
        *(5, [], [5], (5, 1.5, 2), (-1, 1.5), (1.0, 1.5), (5, 0), (5, -1.0), (5, NAN), (5, INF)),
        *((5, "2"), (5, True), (True, 2.0), "51", {5: 1.5}, (5, 1e7)),
    ],
    "sequence_bias": [
        *({}, [], 5, "ab", {5: 1.0}, {(): 1.0}, {(5,): NAN}, {(5,): INF}, {(5,): "1"}, [(5, 1.0)]),
        *([((5,), 1.0, 2)], [((5,),)], {(-1,): 1.0}, {(5.0,): 1.0}, {(True,): 1.0}, ["ab"]),
        *({"5": 1.0}, {(5,): True}, {(5,): 10**400}, {None: 1.0}),
    ],
}
BAD["typical_p"] = [0, 0.0, *BAD["typical_p"]]
BAD["epsilon_cutoff"] = BAD["eta_cutoff"] = [1, 1.0, *BAD["eta_cutoff"]]


def test_every_option_has_bad_values() -> None:
    assert set(BAD) == {f.name for f in fields(GenerationOptions)}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD.items() for value in values],
    ids=lambda item: str(item)[:20],
)
def test_an_invalid_value_is_named(name: str, value: Any) -> None:
    beside = BESIDE.get(name, {})
    message = options_error({name: value}, beside)
    assert message.startswith(
        (f"{name} is ", f"An item of {name} is ", f"The first part of an item of {name} is ")
    )
    assert "must" in message
    assert options_error({}, {**beside, name: value}) == message  # the bundle's, too


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, values[0]) for name, values in EXAMPLES.items()),
        *((name, values[1]) for name, values in EXAMPLES.items()),
        ("max_new_tokens", 10**9),
        ("max_length", 10**9),
        ("temperature", 2),
        ("temperature", 1e-6),
        ("temperature", 1e6),
        ("top_k", 10**9),
        ("top_p", 0),
        ("top_p", 1),
        ("top_p", 1e-9),
        ("min_p", 1),
        ("typical_p", 1),
        ("seed", 0),
        ("seed", 2**64),
        ("repetition_penalty", 0.5),
        ("length_penalty", 0),
        ("early_stopping", False),
        ("logprobs", 10**6),
        ("exponential_decay_length_penalty", (0, 0.5)),
    ],
    ids=lambda item: str(item)[:20],
)
def test_a_value_that_makes_sense_is_taken(name: str, value: Any) -> None:
    assert getattr(resolve(BESIDE.get(name, {}), {name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("max_new_tokens", np.int64(5), 5),
        ("max_length", np.int32(30), 30),
        ("do_sample", np.True_, True),
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", np.float64(0.5), 0.5),
        ("top_k", np.int64(5), 5),
        ("top_p", np.float32(0.5), 0.5),
        ("seed", np.int64(5), 5),
        ("repetition_penalty", np.float32(1.5), 1.5),
        ("no_repeat_ngram_size", np.int64(2), 2),
        ("eos_token_id", np.int64(5), 5),
        ("eos_token_id", [np.int64(5)], (5,)),
        ("eos_token_id", np.array([5, 6]), (5, 6)),
        ("bos_token_id", np.int64(5), 5),
        ("decoder_start_token_id", np.int64(5), 5),
        ("suppress_tokens", np.array([5, 6]), (5, 6)),
        ("bad_words_ids", np.array([[5], [6]]), ((5,), (6,))),
        ("bad_words_ids", [np.array([5, 6]), [np.int64(7)]], ((5, 6), (7,))),
        ("sequence_bias", {(np.int64(5),): np.float32(0.5)}, {(5,): 0.5}),
        ("stop_strings", np.array(["a", "b"]), ("a", "b")),
        ("exponential_decay_length_penalty", [np.int64(5), np.float32(1.5)], (5, 1.5)),
    ],
    ids=lambda item: str(item)[:20],
)
def test_numpy_values_become_python_values(name: str, value: Any, plain: Any) -> None:
    """Computations with numpy return them."""
    beside = BESIDE.get(name, {})
    assert resolve(beside, {name: value}) == resolve(beside, {name: plain})
    assert repr(getattr(resolve(beside, {name: value}), name)) == repr(plain)


def test_biases_may_be_a_dictionary_or_pairs() -> None:
    """Transformers accepts both, since a JSON file has no tuples as keys."""
    expected = (((5, 6), 1.5), ((7,), -2.0))
    for given in ({(5, 6): 1.5, (7,): -2}, [[[5, 6], 1.5], [[7], -2]], expected):
        assert resolve({}, {"sequence_bias": given}).biases == expected
    assert resolve({}, {}).biases == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ()), (0, (0,)), ([3, 5], (3, 5)), ((3, 5), (3, 5)), ([7], (7,)), ([], ())],
)
def test_one_end_or_several_or_none(value: Any, expected: tuple[int, ...]) -> None:
    assert resolve({}, {"eos_token_id": value}).eos_token_ids == expected
    assert resolve({"eos_token_id": value}, {}).eos_token_ids == expected


# Values that are right by themselves


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_return_sequences": 2}, "do_sample"),
        ({**BEAMS, "num_return_sequences": 5}, "at most num_beams (4)"),
        ({**BEAMS, **SAMPLING, "num_return_sequences": 5}, "at most num_beams (4)"),
        ({**GROUPS, "num_beam_groups": 3}, "divide num_beams (4)"),
        ({**GROUPS, "num_beam_groups": 8}, "divide num_beams (4)"),
        ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "without beam search"),
        ({**GROUPS, **SAMPLING}, "do_sample"),
        ({**BEAMS, "num_beam_groups": 2}, "diversity_penalty"),
        ({**SAMPLING, "prompt_lookup_num_tokens": 3}, "greedy search"),
        ({**BEAMS, "prompt_lookup_num_tokens": 3}, "greedy search"),
        ({**ENDING, "min_length": 1, "min_new_tokens": 1}, "min_new_tokens"),
    ],
    ids=str,
)
def test_combinations_that_are_refused(options: dict[str, Any], named: str) -> None:
    assert named in options_error(options)


@pytest.mark.parametrize(
    ("options", "strategy"),
    [
        ({}, "greedy"),
        (SAMPLING, "sampling"),
        ({**SAMPLING, "num_return_sequences": 5}, "sampling"),
        (BEAMS, "beam search"),
        ({**BEAMS, **SAMPLING, "num_return_sequences": 4}, "beam search"),
        (GROUPS, "group beam search"),
        ({"prompt_lookup_num_tokens": 3}, "prompt lookup"),
    ],
    ids=str,
)
def test_options_choose_the_strategy(options: dict[str, Any], strategy: str) -> None:
    assert resolve({}, options).strategy == strategy
