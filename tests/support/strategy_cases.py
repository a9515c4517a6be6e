"""The cases of the parity tests: a table of options in which all pairs of values occur.

A case names one value of each factor. Values that name tokens ("some", "eos") become ids of a
model by ``options_of``, which is the only place that knows the options' names.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Case = dict[str, Any]
Pair = tuple[tuple[str, Any], tuple[str, Any]]

# The first value of each factor can be combined with everything.
FACTORS: dict[str, tuple[Any, ...]] = {
    "strategy": ("greedy", 2, 3, 4, 5, 6, "lookup"),  # a number: that of the beams
    "prompts": ("one", "short", "equal", "ragged", "many"),
    "returned": (1, 2, "all"),
    "limit": (16, 8, 24, "max_length"),
    "eos": ("one", "three", None),
    "length_penalty": (None, -1.0, 0.0, 0.5, 2.0),
    "early_stopping": (None, True, "never"),
    "repetition_penalty": (1.0, 1.3, 0.8),
    "encoder_repetition_penalty": (1.0, 1.4, 0.7),
    "no_repeat_ngram_size": (0, 1, 2, 3),
    "encoder_no_repeat_ngram_size": (0, 1, 2),
    "bad_words_ids": (None, "some", "and eos"),
    "sequence_bias": (None, "some", "eos"),
    "suppress_tokens": (None, "some"),
    "begin_suppress_tokens": (None, "some", "and eos"),
    "forced_bos_token_id": (None, "some"),
    "forced_eos_token_id": (None, "eos", "other", "several"),
    "shortest": (None, "min_new_tokens", "min_length"),
    "exponential_decay_length_penalty": (None, (8, 1.1), (2, 1.3)),
    "renormalize_logits": (False, True),
    "remove_invalid_values": (False, True),
    "prefix_allowed_tokens_fn": (False, True),
    "logits_processor": (False, True),
    "logprobs": (None, 2),
}


def is_possible(case: Mapping[str, Any]) -> bool:
    """Return whether values, not necessarily one of each factor, can be combined.

    What ``OptionError`` refuses cannot. Nor can what Transformers makes NaN of: a decay that
    raises an end of sequence that something had forbidden (``parity/test_penalties.py``). Nor can
    beams end with one of several forced tokens: their scores are equal, and which of them
    ``torch.topk`` takes is chance.
    """
    given = {name: value for name, value in case.items() if value != FACTORS[name][0]}
    strategy = case.get("strategy")
    of_beams = given.keys() & {"returned", "length_penalty", "early_stopping"}
    if of_beams and strategy in ("greedy", "lookup"):
        return False
    if strategy == "lookup" and case.get("prompts", "one") not in ("one", "short"):
        return False
    decay = given.get("exponential_decay_length_penalty")
    if "eos" in given and given["eos"] is None and (decay or "shortest" in given):
        return False
    if decay == (2, 1.3) and "shortest" in given:
        return False
    if decay and "encoder_no_repeat_ngram_size" in given:  # a source ends with T5's own end
        return False
    if (
        decay
        and "forced_eos_token_id" in given
        and (given["forced_eos_token_id"] != "eos" or case.get("eos", "one") != "one")
    ):
        return False
    has_beams = isinstance(strategy, int) or of_beams
    return not (has_beams and given.get("forced_eos_token_id") == "several")


def possible_pairs() -> set[Pair]:
    """Return all pairs of values of two factors that can be combined."""
    return {
        ((one, a), (other, b))
        for one, other in itertools.combinations(FACTORS, 2)
        for a, b in itertools.product(FACTORS[one], FACTORS[other])
        if is_possible({one: a, other: b})
    }


def pairs_of(case: Case) -> Iterator[Pair]:
    """Yield the pairs of a case's values, in the order of the factors."""
    return itertools.combinations(((name, case[name]) for name in FACTORS), 2)


def pairwise_table(seed: int) -> list[Case]:
    """Return cases in which each possible pair of values occurs, found greedily."""
    chance = random.Random(seed)
    missing = possible_pairs()
    table = []
    while missing:
        first = chance.choice(sorted(missing, key=repr))
        tries = [_grown(dict(first), missing, chance) for _ in range(8)]
        table.append(max(tries, key=lambda case: len(missing.intersection(pairs_of(case)))))
        missing.difference_update(pairs_of(table[-1]))
    return table


def _grown(case: Case, missing: set[Pair], chance: random.Random) -> Case:
    """Complete the case with the values that add the most missing pairs."""
    for name in chance.sample(list(FACTORS), len(FACTORS)):
        if name in case:
            continue
        values = [value for value in FACTORS[name] if is_possible({**case, name: value})]
        chance.shuffle(values)

        def gain(value: Any, name: str = name) -> int:
            new = (name, value)
            return sum((old, new) in missing or (new, old) in missing for old in case.items())

        case[name] = max(values, key=gain)
    return {name: case[name] for name in FACTORS}


def random_cases(seed: int, count: int) -> list[Case]:
    """Return random cases; about half of the penalties and constraints are left out."""
    chance = random.Random(seed)
    cases = []
    for _ in range(count):
        case: Case = {}
        for name in chance.sample(list(FACTORS), len(FACTORS)):
            values = [value for value in FACTORS[name] if is_possible({**case, name: value})]
            off = name not in ("strategy", "prompts", "limit", "eos") and chance.random() < 0.5
            case[name] = FACTORS[name][0] if off else chance.choice(values)
        cases.append({name: case[name] for name in FACTORS})
    return cases


@dataclass(frozen=True)
class Words:
    """Tokens of a model's own texts, so that options about them have an effect."""

    ends: tuple[int, int, int]
    others: tuple[int, ...]  # common ones, none of ``ends``
    vocabulary: int

    def allowed(self, prompt: int, tokens: Any) -> list[int]:
        """Return two thirds of the vocabulary, chosen by the prompt's index and the last token.

        The ends are always among them.
        """
        first = (int(tokens[-1]) + prompt) % 3
        return sorted({i for i in range(self.vocabulary) if i % 3 != first}.union(self.ends))

    def wave(self, tokens: Any, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the logits with a wave added whose phase is the last token."""
        angles = 0.7 * np.arange(self.vocabulary) + float(tokens[-1])
        return logits + np.sin(angles).astype(np.float32)


def options_of(case: Case, words: Words) -> dict[str, Any]:
    """Return a case's options for ``generate_ids``; defaults of bundles are turned off."""
    options: dict[str, Any] = {"do_sample": False}
    options |= _lengths(case, words)
    options |= _constraints(case, words)
    for name in (
        "repetition_penalty",
        "encoder_repetition_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "renormalize_logits",
        "remove_invalid_values",
    ):
        options[name] = case[name]
    for name in ("length_penalty", "early_stopping", "logprobs"):
        if case[name] is not None:
            options[name] = case[name]
    if case["strategy"] == "lookup":
        options["prompt_lookup_num_tokens"] = 5
    elif case["strategy"] != "greedy":
        options["num_beams"] = case["strategy"]
        returned = case["returned"]
        options["num_return_sequences"] = case["strategy"] if returned == "all" else returned
    return options


def _lengths(case: Case, words: Words) -> dict[str, Any]:
    ends = {"one": [words.ends[0]], "three": list(words.ends), None: None}[case["eos"]]
    limit = (
        {"max_length": 21} if case["limit"] == "max_length" else {"max_new_tokens": case["limit"]}
    )
    shortest = {None: {}, "min_new_tokens": {"min_new_tokens": 6}, "min_length": {"min_length": 8}}
    decay = case["exponential_decay_length_penalty"]
    return {
        "eos_token_id": ends,
        **limit,
        **shortest[case["shortest"]],
        **({} if decay is None else {"exponential_decay_length_penalty": decay}),
    }


def _constraints(case: Case, words: Words) -> dict[str, Any]:
    end, others = words.ends[0], words.others
    bad_words = [[others[0]], [others[1], others[2]], [others[3], others[4], others[5]]]
    meanings: dict[str, Mapping[Any, Any]] = {
        "bad_words_ids": {"some": bad_words, "and eos": [*bad_words, [end]]},
        "sequence_bias": {
            "some": {(others[2],): 2.0, (others[2], others[4]): 3.0, (others[6],): -2.5},
            "eos": {(end,): 4.0, (others[5], others[3]): 2.0},
        },
        "suppress_tokens": {"some": [others[1], others[7]]},
        "begin_suppress_tokens": {"some": list(others[:3]), "and eos": [others[2], end]},
        "forced_bos_token_id": {"some": others[8]},
        "forced_eos_token_id": {"eos": end, "other": others[9], "several": [others[9], end]},
        "prefix_allowed_tokens_fn": {True: words.allowed},
        "logits_processor": {True: words.wave},
    }
    return {
        name: meaning[case[name]] for name, meaning in meanings.items() if case[name] in meaning
    }


def lengths_of(prompts: str) -> Sequence[int]:
    """Return the lengths of a case's prompts."""
    return {
        "one": (9,),
        "short": (1,),
        "equal": (7, 7, 7),
        "ragged": (3, 12),
        "many": (6, 1, 11, 4),
    }[prompts]
