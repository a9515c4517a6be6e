"""Prompt lookup decoding: its guesses, its pace, and the ids of greedy search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime import Model, OptionError
from edgeseq.runtime.decoder import Decoder
from edgeseq.runtime.decoding.prompt_lookup import BORDER, LONGEST_PAUSE, NgramIndex, Pace


@pytest.mark.parametrize(
    ("ids", "longest", "count", "guess"),
    [
        ([], 2, 5, []),
        ([1], 2, 5, []),
        ([1, 2, 3], 2, 5, []),
        ([1, 2, 3, 1, 2], 2, 3, [3, 1, 2]),
        ([1, 2, 3, 1, 2], 2, 2, [3, 1]),
        ([1, 2, 3, 1, 2], 2, 0, []),
        ([1, 2, 3, 1, 2], 2, 7, [3, 1, 2, 3, 1, 2, 3]),  # the guess repeats itself
        ([5, 5], 2, 3, [5, 5, 5]),
        ([1, 2, 3, 9, 2, 4, 1, 2], 2, 1, [3]),  # the longer n-gram, though the other is later
        ([1, 2, 3, 9, 2, 4, 1, 2], 1, 1, [4]),  # the last occurrence
        ([7, 1, BORDER, 3, 1], 2, 4, []),  # nothing beyond a source's end
        ([7, 1, 8, BORDER, 3, 1], 2, 4, [8]),
    ],
)
def test_guesses_by_hand(ids: list[int], longest: int, count: int, guess: list[int]) -> None:
    assert NgramIndex(ids, longest).following(count) == guess


def test_an_index_that_grows_guesses_as_a_new_one() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, 60).tolist()
    index = NgramIndex(ids[:10], 3)
    for end in range(10, 60):
        assert index.following(6) == NgramIndex(ids[:end], 3).following(6)
        index.append(ids[end])


def test_the_pace_follows_success() -> None:
    pace = Pace(16)
    assert pace.next_guess() == 4
    pace.note(4, 4)
    assert pace.next_guess() == 8
    pace.note(8, 8)
    pace.note(16, 16)
    assert pace.next_guess() == 16
    pace.note(16, 3)
    assert pace.next_guess() == 3


def test_the_pace_pauses_after_failures_and_comes_back() -> None:
    pace = Pace(16)
    pauses = []
    for _ in range(8):
        guess = pace.next_guess()
        assert guess >= 1
        pace.note(guess, 0)
        steps = 0
        while not pace.next_guess():
            pace.note(0, 0)
            steps += 1
        pauses.append(steps)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE - 1
    pace.note(1, 1)
    pace.note(1, 0)
    assert pace.next_guess() >= 1  # one failure alone is no reason to pause


class CountingDecoder:
    """A decoder that counts the runs of another."""

    def __init__(self, decoder: Decoder, runs: list[int]) -> None:
        self._decoder = decoder
        self._runs = runs

    def decode(self, tokens: Sequence[int]) -> Any:
        self._runs.append(1)
        return self._decoder.decode(tokens)

    def read(self, tokens: Sequence[int]) -> Any:
        self._runs.append(len(tokens))
        return self._decoder.read(tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


def test_fewer_steps_where_the_text_repeats(model: Model) -> None:
    passage = list(range(20, 50))

    def copying(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
        logits[passage[(len(tokens) - len(passage)) % len(passage)]] += 1e4
        return logits

    runs: list[int] = []

    def new_decoder(sources: Sequence[Sequence[int]], capacity: int) -> Decoder:
        counting: Any = CountingDecoder(model.new_decoder(sources, capacity), runs)
        return counting  # type: ignore[no-any-return]

    options: dict[str, Any] = {"max_new_tokens": 40, "eos_token_id": None, "do_sample": False}
    [found] = model.with_decoders(new_decoder).generate_ids(
        [passage], prompt_lookup_num_tokens=10, logits_processor=copying, **options
    )
    assert list(found.token_ids) == (2 * passage)[:40]
    assert len(runs) < 12
    assert max(runs) <= 11


@pytest.mark.parametrize("lookup", [1, 3, 10, 40])
@pytest.mark.parametrize("ngram", [None, 1, 4])
def test_ids_of_greedy_search(model: Model, lookup: int, ngram: int | None) -> None:
    rng = np.random.default_rng(lookup)
    options: dict[str, Any] = {"max_new_tokens": 60, "eos_token_id": None, "do_sample": False}
    for length in (1, 2, 30):
        prompt = rng.integers(1, 20, length).tolist()
        for changes in ({}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 3}):
            [expected] = model.generate_ids([prompt], **options, **changes, logprobs=1)
            [found] = model.generate_ids(
                [prompt],
                prompt_lookup_num_tokens=lookup,
                max_matching_ngram_size=ngram,
                logprobs=1,
                **options,
                **changes,
            )
            assert found.token_ids == expected.token_ids
            assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_a_t5_looks_into_its_source(t5_model: Model) -> None:
    source = np.random.default_rng(0).integers(2, 40, 25).tolist()
    options: dict[str, Any] = {"max_new_tokens": 50, "eos_token_id": None}
    [expected] = t5_model.generate_ids([source], **options)
    [found] = t5_model.generate_ids([source], prompt_lookup_num_tokens=8, **options)
    assert found.token_ids == expected.token_ids


@pytest.mark.parametrize("end", ["eos", "stop", "length", "cancel"])
def test_texts_end_in_the_middle_of_a_guess(model: Model, end: str) -> None:
    options: dict[str, Any] = {"max_new_tokens": 50, "eos_token_id": None}
    [plain] = model.generate("Once upon", **options)
    if end == "eos":
        options["eos_token_id"] = plain.token_ids[30]
    if end == "stop":
        options["stop_strings"] = [model.tokenizer.decode(plain.token_ids[20:23])]
    if end == "length":
        options["max_new_tokens"] = 33
    if end == "cancel":
        asked = iter(range(1000))
        options["cancel"] = lambda: next(asked) > 6
    [expected] = model.generate("Once upon", **options)
    if end == "cancel":
        asked = iter(range(1000))
    [found] = model.generate("Once upon", prompt_lookup_num_tokens=10, **options)
    assert found.finish_reason == expected.finish_reason
    assert found.token_ids[: expected.generated_tokens] == expected.token_ids
    assert end == "cancel" or found.token_ids == expected.token_ids


def test_one_prompt_at_a_time(model: Model) -> None:
    with pytest.raises(OptionError, match="one prompt at a time, not 2"):
        model.generate_ids([[1], [2]], prompt_lookup_num_tokens=3)
