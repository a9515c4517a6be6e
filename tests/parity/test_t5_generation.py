"""Generation with T5: limits, options, texts, and the number of runs of the graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, OptionError, PromptError, load
from edgeseq.runtime.ort.engine import Engine
from edgeseq.runtime.ort.graph_session import GraphSession, open_session
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


# Limits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_length": 2},
        {"max_length": 25},
        {"max_length": 25, "prefix": PREFIX},
        {"max_length": 5, "prefix": [START, *PREFIX]},
        {"max_new_tokens": 1, "prefix": PREFIX},
        {"prefix": PREFIX},
    ],
    ids=str,
)
def test_limits_are_those_of_transformers(
    options: dict[str, Any], t5_model: Model, t5_reference: T5, t5_ids: Callable[..., Ids]
) -> None:
    """``max_length`` counts the decoder's tokens, prefix included, not the source's."""
    options = dict(options)
    prefix = options.pop("prefix", [START])
    given = torch.tensor([prefix] * len(SOURCES))
    expected = t5_ids(t5_reference, SOURCES, decoder_input_ids=given, **options)
    start = prefix if prefix[0] == START else [START, *prefix]
    results = t5_model.generate_ids(SOURCES, decoder_input_ids=prefix, **options)
    assert [[*start, *result.token_ids] for result in results] == expected
    assert {result.finish_reason for result in results} == {"length"}


def test_max_length_that_leaves_no_room_is_refused(t5_model: Model) -> None:
    for options in ({"max_length": 1}, {"max_length": 4, "decoder_input_ids": PREFIX}):
        call = partial(t5_model.generate_ids, SOURCES, **options)
        refusal(OptionError, call, match="max_length")


def test_no_table_of_positions_bounds_the_text(
    t5_model: Model, t5_reference: T5, t5_logits: Callable[..., torch.Tensor]
) -> None:
    """A source of 600 tokens, 1,100 new ones: past where the cache first grows.

    PyTorch reads the text at once: that it would choose each of its tokens is greedy search.
    """
    source = np.random.default_rng(2).integers(2, 320, size=600).tolist()
    (text,) = token_ids(t5_model, [source], max_new_tokens=1100, eos_token_id=None)
    logits = t5_logits(t5_reference, source, [START, *text[:-1]])
    assert len(text) == 1100
    assert len(set(text)) > 8
    best, second = logits.topk(2).values.T
    assert float((best - second).min()) > 2e-4
    assert logits.argmax(-1).tolist() == text


# Options and texts


@pytest.mark.parametrize(
    "options",
    [
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_repetition_is_judged_by_what_the_decoder_has(
    options: dict[str, Any], t5_model: Model, t5_reference: T5, t5_ids: Callable[..., Ids]
) -> None:
    given = torch.tensor([PREFIX] * len(SOURCES))
    options = {**options, "max_new_tokens": 40}
    expected = t5_ids(t5_reference, SOURCES, decoder_input_ids=given, **options)
    actual = token_ids(t5_model, SOURCES, decoder_input_ids=PREFIX, **options)
    assert actual == [ids[1 + len(PREFIX) :] for ids in expected]
    plain = token_ids(t5_model, SOURCES, decoder_input_ids=PREFIX, max_new_tokens=40)
    assert all(ids != other for ids, other in zip(actual, plain, strict=True))


def test_sampling_differs_by_seed_and_not_by_batch(t5_model: Model) -> None:
    options = {"do_sample": True, "seed": 3, "max_new_tokens": 16}
    texts = token_ids(t5_model, SOURCES, **options)
    assert [token_ids(t5_model, [source], **options)[0] for source in SOURCES] == texts
    assert token_ids(t5_model, SOURCES, **{**options, "seed": 4}) != texts


@pytest.mark.parametrize("sources", [[[]], [SOURCES[0], []], [[320]], [[-1]], [["a"]], [[True]]])
def test_source_that_cannot_be_read_is_refused(sources: Any, t5_model: Model) -> None:
    refusal(PromptError, lambda: t5_model.generate_ids(sources, max_new_tokens=4))


@pytest.fixture(scope="module", params=[320, 384], ids=["unigram", "bytes"])
def text_model(
    request: pytest.FixtureRequest,
    seeded_t5: Callable[..., T5],
    save_t5: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Model, T5, Path]:
    """A model whose generation defaults have an end token, its reference and its checkpoint."""
    reference = seeded_t5(vocab_size=request.param, num_layers=1, eos_token_id=1)
    folder = save_t5(reference)
    bundle = export_checkpoint(folder, tmp_path_factory.mktemp("bundle") / "t5")
    return load(bundle.folder, threads=1), reference, folder


TEXTS = ["Once upon a time", "", "he said: “home!”", "ÄÖÜ 🦊\n\n  x </s> <extra_id_3>"]


def test_texts_are_read_and_written_as_transformers_does(
    text_model: tuple[Model, T5, Path], t5_ids: Callable[..., Ids]
) -> None:
    """An end token is appended, so an empty text is a source of one token."""
    model, reference, folder = text_model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, result in zip(TEXTS, model.generate(TEXTS, max_new_tokens=40), strict=True):
        source = tokenizer(text)["input_ids"]
        (ids,) = t5_ids(reference, [source], max_new_tokens=40)
        assert list(result.token_ids) == ids[1:]
        assert result.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert result.prompt_tokens == len(source)


def test_streamed_pieces_make_up_the_text(text_model: tuple[Model, T5, Path]) -> None:
    """The tokenizer is trained in each run and varies a little: a text may have no letter."""
    model, _, _ = text_model
    count = 0
    for text in TEXTS:
        for options in ({}, {"decoder_input_ids": [70, 71]}, {"do_sample": True, "seed": 1}):
            long = {**options, "max_new_tokens": 200, "eos_token_id": None}
            (result,) = model.generate(text, **long)
            pieces = list(model.stream(text, **long))
            assert "".join(pieces) == result.text
            assert "" not in pieces
            count += len(pieces)
    assert count > 10 * len(TEXTS)


# How often the graphs run


class CountingSession:
    """A session that counts its runs in ``runs`` by role."""

    def __init__(self, session: GraphSession, role: str, runs: Counter[str]) -> None:
        self._session = session
        self._role = role
        self._runs = runs

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, *arguments: Any) -> None:
        self._runs[self._role] += 1
        self._session.run_with_iobinding(*arguments)


def test_encoder_runs_once_and_the_decoder_once_a_token(t5_model: Model) -> None:
    bundle = t5_model.bundle
    runs: Counter[str] = Counter()
    sessions = {
        role: CountingSession(open_session(bundle.file(file), threads=1), role, runs)
        for role, file in bundle.manifest.graphs.items()
    }
    model = Model(bundle, t5_model.tokenizer, Engine(bundle.manifest, sessions))
    texts = token_ids(model, SOURCES, max_new_tokens=24)
    assert runs == {"encoder": 1, "decoder": 24}

    runs.clear()
    token_ids(model, SOURCES, max_new_tokens=24, decoder_input_ids=[7, 8, 9])
    assert runs == {"encoder": 1, "decoder": 24}

    runs.clear()
    end = texts[0][5]
    ended = token_ids(model, SOURCES[:1], max_new_tokens=24, eos_token_id=end)
    assert runs == {"encoder": 1, "decoder": len(ended[0])}

    runs.clear()
    pieces = model.stream("a fox", max_new_tokens=9)
    assert not runs  # nothing is computed for a stream that is not read
    list(pieces)
    assert runs == {"encoder": 1, "decoder": 9}
