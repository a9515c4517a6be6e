"""Constrained decoding: outputs match with every strategy, and errors are clear."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime import Model, OptionError
from tests.support.errors import refusal

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "seed": 1, "num_return_sequences": 3},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 3},
    "beam sampling": {"do_sample": True, "seed": 1, "num_beams": 3},
    "groups": {
        "do_sample": False,
        "num_beams": 4,
        "num_beam_groups": 2,
        "diversity_penalty": 0.5,
    },
    "lookup": {"do_sample": False, "prompt_lookup_num_tokens": 4},
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["fox", "wolf"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_regular_expression_of_gpt2(demo_gpt2: Model, strategy: str) -> None:
    regex = r" (he|she) said: (yes|no|[a-z]{2,6}), [0-9]{2,3}\."
    for result in demo_gpt2.generate(
        "Then", regex=regex, max_new_tokens=60, **STRATEGIES[strategy]
    ):
        assert re.fullmatch(regex, result.text)
        assert result.finish_reason == "eos"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_json_of_gpt2(demo_gpt2: Model, strategy: str) -> None:
    options = {**STRATEGIES[strategy], "max_new_tokens": 100}
    for result in demo_gpt2.generate("The fox:\n", json_schema=SCHEMA, **options):
        found = json.loads(result.text)
        assert set(found) == {"name", "age", "kind"}
        assert found["kind"] in ("fox", "wolf")
        assert 0 <= found["age"] <= 99
        assert len(found["name"]) <= 8


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_regular_expression_of_t5(demo_t5: Model, strategy: str) -> None:
    regex = r"(AE1|EH1) [A-Z]{1,2}[0-2]?( [A-Z]{1,2}[0-2]?){2,4}"
    options = {**STRATEGIES[strategy], "max_new_tokens": 40}
    for result in demo_t5.generate("pronounce: algorithm", regex=regex, **options):
        assert re.fullmatch(regex, result.text)


def test_a_grammar(demo_gpt2: Model) -> None:
    grammar = 'start: " a" (" small" | " big")~1..2 " fox" | " nothing"'
    [result] = demo_gpt2.generate("It was", grammar=grammar, do_sample=False, num_beams=3)
    assert result.text in {" nothing"} | {
        f" a{''.join(words)} fox"
        for words in (
            [(" small",), (" big",)]
            + [(one, other) for one in (" small", " big") for other in (" small", " big")]
        )
    }


def test_a_stream_is_constrained_too(demo_gpt2: Model) -> None:
    regex = "( [a-z]{1,8}){3}!"
    options = {"regex": regex, "do_sample": False, "max_new_tokens": 60}
    for beams in (1, 3):
        streamed = "".join(demo_gpt2.stream("Then", num_beams=beams, **options))
        assert streamed == demo_gpt2.generate("Then", num_beams=beams, **options)[0].text
        assert re.fullmatch(regex, streamed)


def test_a_vocabulary_that_cannot_spell_it(demo_t5: Model) -> None:
    with pytest.raises(OptionError, match="cannot spell"):
        demo_t5.generate("pronounce: a", json_schema={"type": "object"})


def test_a_dead_end_in_the_middle_is_explained(demo_t5: Model) -> None:
    options: dict[str, Any] = {"regex": r"AH0 \{", "do_sample": False}
    refusal(OptionError, lambda: demo_t5.generate("pronounce: a", **options), match="cannot spell")


def test_each_prompt_of_a_batch_is_constrained_by_itself(demo_gpt2: Model) -> None:
    texts = ["Then", "The old king", "A"]
    options: dict[str, Any] = {"regex": "( [a-z]{1,6}){1,4}!", "do_sample": False, "num_beams": 3}
    together = demo_gpt2.generate(texts, max_new_tokens=30, **options)
    alone = [demo_gpt2.generate(text, max_new_tokens=30, **options)[0] for text in texts]
    assert [result.text for result in together] == [result.text for result in alone]


# Functions of the caller's


def test_prefix_allowed_tokens(model: Model) -> None:
    seen = []

    def allowed(prompt: int, tokens: np.ndarray) -> list[int]:
        seen.append((prompt, tokens.tolist()))
        return [10 + prompt, 20 + prompt]

    results = model.generate_ids(
        [[1, 2], [3]], prefix_allowed_tokens_fn=allowed, max_new_tokens=3, eos_token_id=None
    )
    assert set(results[0].token_ids) <= {10, 20}
    assert set(results[1].token_ids) <= {11, 21}
    assert seen[:2] == [(0, [1, 2]), (1, [3])]


@pytest.mark.parametrize("given", [[], [-1], [10**6], ["a"], [[1]], None])
def test_bad_results_of_prefix_allowed_tokens_are_refused(model: Model, given: Any) -> None:
    with pytest.raises(OptionError, match="prefix_allowed_tokens_fn returned"):
        model.generate_ids([[1]], prefix_allowed_tokens_fn=lambda prompt, tokens: given)


def test_the_callers_processors_run_in_their_order(model: Model) -> None:
    def first(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
        logits[5] = 1e4
        return logits

    def second(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return np.where(np.arange(logits.size) == 6 + len(tokens), 2e4, logits)

    options: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": None}
    one = model.generate_ids([[1]], logits_processor=first, **options)
    both = model.generate_ids([[1]], logits_processor=[first, second], **options)
    assert one[0].token_ids == (5, 5, 5)
    assert both[0].token_ids == (7, 8, 9)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_processor_that_gives_nan_or_infinity_is_refused(
    model: Model, strategy: str, bad: float
) -> None:
    def spoil(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
        changed = logits.astype(np.float64)
        changed[3] = bad
        return changed

    with pytest.raises(OptionError, match="logits_processor returned NaN, infinity"):
        model.generate_ids([[1]], logits_processor=spoil, **STRATEGIES[strategy])


@pytest.mark.parametrize("given", [[[1], [2, 3]], np.zeros(320, complex)])
def test_a_processor_that_gives_no_list_of_numbers_is_refused(model: Model, given: Any) -> None:
    with pytest.raises(OptionError, match="logits_processor returned"):
        model.generate_ids([[1]], logits_processor=lambda tokens, logits: given)


@pytest.mark.parametrize("given", [None, 1.0, [1, 2], "text", np.zeros((1, 320))])
def test_a_processor_that_gives_another_shape_is_refused(model: Model, given: Any) -> None:
    with pytest.raises(OptionError, match="logits_processor returned"):
        model.generate_ids([[1]], logits_processor=lambda tokens, logits: given)


def test_a_processor_that_forbids_everything(model: Model) -> None:
    def nothing(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return np.full_like(logits, -np.inf)

    for options in STRATEGIES.values():
        with pytest.raises(OptionError, match="No token may come next"):
            model.generate_ids([[1]], logits_processor=nothing, **options)


@pytest.mark.parametrize(
    "arguments",
    [
        {"logits_processor": 3},
        {"logits_processor": [len, 3]},
        {"prefix_allowed_tokens_fn": [1]},
        {"cancel": 3},
        {"cancel": True},
        {"regex": 3},
        {"regex": "a", "grammar": 'start: "a"'},
        {"json_schema": {}, "regex": "a"},
        {"grammar": b"start"},
        {"regex": "\ud800"},
        {"cancel": threading.Event},
        {"eos_token_id": 10**6},
        {"eos_token_id": [1, 10**6]},
        {"stop_strings": "\ud800"},
    ],
)
def test_arguments_that_are_refused(model: Model, arguments: dict[str, Any]) -> None:
    refusal(OptionError, lambda: model.generate_ids([[1]], **arguments))
