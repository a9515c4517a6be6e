"""Windows and log-probabilities: by hand on a scripted decoder, and compared with Transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

from edgeseq.runtime import BundleError, Model, OptionError, PromptError, Score
from edgeseq.runtime.decoding.scoring import CHUNK, window_logits
from edgeseq.runtime.logits.softmax import log_probabilities
from edgeseq.runtime.request.passages import Window, pair_window, text_windows

VOCABULARY = 8
LONG_TEXT = "Once upon a time there was a clever fox; he said: “Let us go home!” To 42 üs? " * 6


@dataclass
class Reader:
    """A decoder in which t + 1 has logit 1 after t, all others 0; it reuses its memory."""

    prompts: Sequence[Sequence[int]]
    capacity: int
    chunks: list[list[int]] = field(default_factory=list)

    def read(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self.chunks.append(list(tokens))
        assert sum(map(len, self.chunks)) <= self.capacity
        if len(self.chunks) > 1:
            self._memory.fill(np.nan)
        self._memory = np.zeros((len(tokens), VOCABULARY), np.float32)
        self._memory[np.arange(len(tokens)), (np.array(tokens) + 1) % VOCABULARY] = 1
        return self._memory


@pytest.fixture
def readers() -> list[Reader]:
    """The decoders that ``new_decoder`` made."""
    return []


@pytest.fixture
def new_decoder(readers: list[Reader]) -> Callable[..., Any]:
    def make(prompts: Sequence[Sequence[int]], capacity: int) -> Any:
        readers.append(Reader(prompts, capacity))
        return readers[-1]

    return make


# Windows


def test_windows_by_hand() -> None:
    ids = list(range(10))
    assert text_windows(ids, 4, 2) == [
        Window((), [0, 1, 2, 3, 4], 1),
        Window((), [2, 3, 4, 5, 6], 3),
        Window((), [4, 5, 6, 7, 8], 3),
        Window((), [6, 7, 8, 9], 3),
    ]
    assert text_windows(ids, 9, 3) == [Window((), ids, 1)]
    assert text_windows(ids, 100, 1) == [Window((), ids, 1)]
    assert text_windows(ids, 1, 1) == [Window((), [i, i + 1], 1) for i in range(9)]
    assert text_windows([5], 4, 2) == text_windows([], 4, 2) == []


@given(
    length=st.integers(0, 60),
    sizes=st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
)
def test_each_token_is_predicted_once_with_enough_before_it(
    length: int, sizes: tuple[int, int]
) -> None:
    context, stride = sizes
    windows = text_windows(range(length), context, stride)
    predicted = [token for window in windows for token in window.tokens[window.first :]]
    assert predicted == list(range(1, length))
    assert sum(window.predicted for window in windows) == len(predicted)
    for number, window in enumerate(windows):
        assert len(window.tokens) <= context + 1
        assert window.predicted >= 1
        assert window.first == (1 if number == 0 else context - stride + 1)
        assert list(window.tokens) == list(range(window.tokens[0], window.tokens[-1] + 1))


@pytest.mark.parametrize(
    ("context", "stride", "named"), [(0, 1, "context"), (4, 0, "stride"), (4, 5, "stride")]
)
def test_bad_sizes_of_windows_are_refused(context: int, stride: int, named: str) -> None:
    with pytest.raises(OptionError, match=f"^{named} is "):
        text_windows([1, 2, 3], context, stride)


def test_a_pair_predicts_its_target() -> None:
    window = pair_window([5, 6, 1], [7, 8, 1], [0])
    assert window == Window([5, 6, 1], [0, 7, 8, 1], 1)
    assert window.predicted == 3
    assert pair_window([5], [7], [0, 3]) == Window([5], [0, 3, 7], 2)


# Logits


def test_logits_by_hand(new_decoder: Callable[..., Any], readers: list[Reader]) -> None:
    [(targets, logits)] = window_logits(new_decoder, Window((), [3, 4, 6, 0], 2))
    assert targets.tolist() == [6, 0]
    assert logits.argmax(axis=1).tolist() == [5, 7]
    assert readers[0].chunks == [[3, 4, 6]]
    assert readers[0].prompts == [[3, 4, 6]]
    assert readers[0].capacity == 3


def test_an_encoder_gets_the_source(new_decoder: Callable[..., Any], readers: list[Reader]) -> None:
    [(targets, _)] = window_logits(new_decoder, Window([7, 7, 1], [0, 4, 1], 1))
    assert targets.tolist() == [4, 1]
    assert readers[0].prompts == [[7, 7, 1]]
    assert readers[0].capacity == 2


def test_nothing_to_predict_reads_nothing(
    new_decoder: Callable[..., Any], readers: list[Reader]
) -> None:
    assert list(window_logits(new_decoder, Window((), [3], 1))) == []
    assert readers == []


@given(length=st.integers(2, 4 * CHUNK), data=st.data())
def test_a_long_window_is_read_in_chunks(length: int, data: st.DataObject) -> None:
    tokens = np.random.default_rng(length).integers(0, VOCABULARY, length).tolist()
    window = Window((), tokens, data.draw(st.integers(1, length - 1)))
    readers: list[Reader] = []

    def new_decoder(*arguments: Any) -> Any:
        readers.append(Reader(*arguments))
        return readers[-1]

    found: list[int] = []
    for targets, logits in window_logits(new_decoder, window):
        assert len(targets) == len(logits) > 0
        begin = window.first + len(found) - 1
        expected = [(token + 1) % VOCABULARY for token in tokens[begin : begin + len(targets)]]
        assert logits.argmax(axis=1).tolist() == expected
        found += targets.tolist()
    assert found == tokens[window.first :]
    [reader] = readers
    assert [token for chunk in reader.chunks for token in chunk] == tokens[:-1]
    assert all(len(chunk) in range(2, CHUNK + 2) for chunk in reader.chunks) or length == 2


@pytest.mark.parametrize("shift", [0.0, 3e4, -3e4])
def test_log_probabilities_by_hand(shift: float) -> None:
    logits = np.log(np.array([[1, 2, 5], [0.25, 0.5, 0.25]], np.float32))
    found = log_probabilities(logits, np.array([2, 0]))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.log([5 / 8, 1 / 4]), rtol=1e-6)
    shifted = log_probabilities(np.round(logits) + np.float32(shift), np.array([2, 0]))
    np.testing.assert_allclose(shifted, log_probabilities(np.round(logits), np.array([2, 0])))


def test_log_probabilities_of_unlikely_tokens() -> None:
    logits = np.array([[0, 500]], np.float32)
    assert log_probabilities(logits, np.array([0])).tolist() == [-500]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(BundleError, match="finite"):
        log_probabilities(np.array([[0, bad]], np.float32), np.array([0]))


# Model.score


@torch.no_grad()
def expected_logs(reference: GPT2LMHeadModel, window: Window) -> list[float]:
    """Return PyTorch's log-probabilities of the targets of a window."""
    logits = reference(torch.tensor([list(window.tokens[:-1])])).logits[0].double()
    logs = logits.log_softmax(-1)
    return [float(logs[i - 1, window.tokens[i]]) for i in range(window.first, len(window.tokens))]


@pytest.mark.parametrize("text", [LONG_TEXT[:40], LONG_TEXT])
def test_score_is_that_of_transformers(model: Model, reference: GPT2LMHeadModel, text: str) -> None:
    score = model.score(text)
    ids = model.tokenizer.encode(text)
    assert isinstance(score, Score)
    assert score.token_ids == tuple(ids)
    assert (len(ids) > 97) == (text == LONG_TEXT)
    windows = text_windows(ids, 96, 48)
    expected = [log for window in windows for log in expected_logs(reference, window)]
    assert score.log_probabilities[0] is None
    np.testing.assert_allclose(score.log_probabilities[1:], expected, rtol=1e-4, atol=1e-5)
    assert score.total == pytest.approx(sum(expected), rel=1e-5)
    assert all(type(log) is float for log in score.log_probabilities[1:])


def test_a_text_as_long_as_the_table_of_positions_is_read_at_once(
    model: Model, reference: GPT2LMHeadModel
) -> None:
    ids = model.tokenizer.encode(LONG_TEXT)[:97]
    text = model.tokenizer.decode(ids)
    assert model.tokenizer.encode(text) == ids
    expected = expected_logs(reference, Window((), ids, 1))
    np.testing.assert_allclose(
        model.score(text).log_probabilities[1:], expected, rtol=1e-4, atol=1e-5
    )


def test_score_of_a_target(
    t5_model: Model, t5_reference: T5ForConditionalGeneration, t5_logits: Callable[..., Any]
) -> None:
    source, target = "he said: “Let us go home!” " * 3, "Once upon a time"
    score = t5_model.score(source, target)
    ids = t5_model.tokenizer.encode(target)
    assert ids[-1] == 1
    assert score.token_ids == tuple(ids)
    logits = t5_logits(t5_reference, t5_model.tokenizer.encode(source), [0, *ids[:-1]])
    logs = logits.double().log_softmax(-1)[range(len(ids)), ids]
    np.testing.assert_allclose(score.log_probabilities, logs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_of_fewer_than_two_tokens_is_refused(model: Model, text: str) -> None:
    with pytest.raises(PromptError, match=r"^The text has [01] tokens?, .*\.$"):
        model.score(text)


def test_a_target_that_is_missing_or_has_no_effect(model: Model, t5_model: Model) -> None:
    with pytest.raises(OptionError, match=r"^target has no effect .*\.$"):
        model.score("a text", "a target")
    with pytest.raises(
        OptionError, match=r"encoder-decoder model needs it: pass a text and the target"
    ):
        t5_model.score("a text")


@pytest.mark.parametrize("arguments", [(["a"],), (5,), (None,), ("a", 5), ("a", ["b"])])
def test_score_takes_one_text(t5_model: Model, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(PromptError, match="score takes"):
        t5_model.score(*arguments)
