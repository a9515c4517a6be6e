"""The first tokens of T5's decoder: its start token and prefixes of the caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from edgeseq.runtime import Model, OptionError, PromptError
from tests.support.errors import refusal

Ids = list[list[int]]
T5 = T5ForConditionalGeneration

START = 0
SOURCES = [
    np.random.default_rng(length).integers(2, 320, size=length).tolist()
    for length in (3, 40, 1, 17, 90)
]
PREFIX = [41, 7, 300]


def token_ids(model: Model, sources: Ids, **options: Any) -> Ids:
    return [list(result.token_ids) for result in model.generate_ids(sources, **options)]


@pytest.mark.parametrize("prefix", [PREFIX, [START, *PREFIX], [START], [START, START, 5], [9] * 70])
def test_prefix_for_all_sources(
    prefix: list[int], t5_model: Model, t5_reference: T5, t5_ids: Callable[..., Ids]
) -> None:
    """Transformers' output holds the prefix, with the start token in front once."""
    given = torch.tensor([prefix] * len(SOURCES))
    expected = t5_ids(t5_reference, SOURCES, decoder_input_ids=given, max_new_tokens=24)
    start = prefix if prefix[0] == START else [START, *prefix]
    assert [ids[: len(start)] for ids in expected] == [start] * len(SOURCES)

    new = [ids[len(start) :] for ids in expected]
    assert len(set(map(tuple, new))) == len(SOURCES)
    assert token_ids(t5_model, SOURCES, decoder_input_ids=prefix, max_new_tokens=24) == new
    alone = token_ids(t5_model, SOURCES[:1], decoder_input_ids=prefix, max_new_tokens=24)
    assert alone == new[:1]


def test_prefix_of_each_source(
    t5_model: Model, t5_reference: T5, t5_ids: Callable[..., Ids]
) -> None:
    """Prefixes of different lengths in one batch, with and without the start token, one empty."""
    prefixes = [PREFIX, [], [START, 9], list(range(100, 150)), [START]]
    expected = []
    for source, prefix in zip(SOURCES, prefixes, strict=True):
        given = torch.tensor([prefix or [START]])
        (ids,) = t5_ids(t5_reference, [source], decoder_input_ids=given, max_new_tokens=24)
        expected.append(ids[-24:])
    assert token_ids(t5_model, SOURCES, decoder_input_ids=prefixes, max_new_tokens=24) == expected
    arrays = [np.array(prefix, np.int64) for prefix in prefixes]
    assert token_ids(t5_model, SOURCES, decoder_input_ids=arrays, max_new_tokens=24) == expected


@pytest.mark.parametrize("prefix", [None, [], [[]] * len(SOURCES), np.array([], np.int64)])
def test_no_prefix(prefix: Any, t5_model: Model) -> None:
    plain = token_ids(t5_model, SOURCES, max_new_tokens=8)
    assert token_ids(t5_model, SOURCES, decoder_input_ids=prefix, max_new_tokens=8) == plain


@pytest.mark.parametrize("prefix", [np.array(PREFIX), tuple(PREFIX), iter(PREFIX), [PREFIX] * 5])
def test_prefix_may_be_any_sequence(prefix: Any, t5_model: Model) -> None:
    plain = token_ids(t5_model, SOURCES, decoder_input_ids=PREFIX, max_new_tokens=8)
    assert token_ids(t5_model, SOURCES, decoder_input_ids=prefix, max_new_tokens=8) == plain


@pytest.mark.parametrize(
    "prefix",
    [
        "text",
        b"ids",
        7,
        3.5,
        True,
        ["7", "8"],
        [7, "8"],
        [320],
        [-1],
        [7, True],
        [7.0],
        [None],
        [7, [8]],
        [[7], 8, 9, 10, 11],
        [PREFIX] * 4,
        [PREFIX] * 6,
        [[7], [8], [320], [9], [10]],
        [[7], "8", [9], [10], [11]],
        [[7], [[8]], [9], [10], [11]],
        np.array([0.5]),
        np.ones((5, 1, 1), np.int64),
    ],
    ids=str,
)
def test_bad_prefix_is_refused_in_one_sentence(prefix: Any, t5_model: Model) -> None:
    refusal(
        (PromptError, OptionError),
        lambda: t5_model.generate_ids(SOURCES, decoder_input_ids=prefix, max_new_tokens=4),
    )


def test_start_token_may_be_another(
    t5_model: Model, t5_reference: T5, t5_ids: Callable[..., Ids]
) -> None:
    options = {"decoder_start_token_id": 17, "max_new_tokens": 24}
    expected = t5_ids(t5_reference, SOURCES, **options)
    assert {ids[0] for ids in expected} == {17}
    assert token_ids(t5_model, SOURCES, **options) == [ids[1:] for ids in expected]
    given = {**options, "decoder_input_ids": [17, *PREFIX]}
    assert token_ids(t5_model, SOURCES, **given) == token_ids(
        t5_model, SOURCES, **options, decoder_input_ids=PREFIX
    )


@pytest.mark.parametrize("start", [-1, "0", True, 0.5, [0]])
def test_start_token_that_is_none_is_refused(start: Any, t5_model: Model) -> None:
    refusal(
        OptionError,
        lambda: t5_model.generate_ids(SOURCES, decoder_start_token_id=start),
        match="decoder_start_token_id",
    )


def test_start_token_outside_the_vocabulary_is_refused(t5_model: Model) -> None:
    refusal(
        (PromptError, OptionError),
        lambda: t5_model.generate_ids(SOURCES, decoder_start_token_id=320),
        match="320",
    )


def test_model_that_names_no_start_token(t5_model: Model) -> None:
    nameless = t5_model.with_defaults({"pad_token_id": 0})
    for options in ({}, {"decoder_input_ids": PREFIX}, {"decoder_start_token_id": None}):
        call = partial(nameless.generate_ids, SOURCES, **options)
        refusal(OptionError, call, match="decoder_start_token_id")
    started = token_ids(nameless, SOURCES, decoder_start_token_id=START, max_new_tokens=8)
    assert started == token_ids(t5_model, SOURCES, max_new_tokens=8)
    from_bos = t5_model.with_defaults({"bos_token_id": START})  # as in Transformers
    assert token_ids(from_bos, SOURCES, max_new_tokens=8) == started


@pytest.mark.parametrize("start", [[], [START]])
def test_text_goes_on_from_the_prefix(start: list[int], t5_model: Model) -> None:
    """The prefix's text and the generated text join to the text of all ids, spaces included."""
    words = t5_model.tokenizer.encode("once upon a time")[:-1]
    for source in SOURCES:
        options = {"decoder_input_ids": [*start, *words], "max_new_tokens": 20}
        result = t5_model.generate_ids([source], **options)[0]
        whole = t5_model.tokenizer.decode([*words, *result.token_ids])
        assert t5_model.tokenizer.decode(words) + result.text == whole
    text = t5_model.generate("a fox", **options)[0].text
    assert "".join(t5_model.stream("a fox", **options)) == text
