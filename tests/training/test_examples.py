"""training/tokens/examples.py: windows, pairs, batches and padding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeseq.training.data import Pair
from edgeseq.training.tokens.examples import (
    IGNORED,
    Collator,
    Lengths,
    Pairs,
    Windows,
    encode_pairs,
    held_out_windows,
)
from tests.support.checkpoints import byte_level_tokenizer


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


DOCUMENTS = [np.arange(100, 140), np.arange(200, 233), np.arange(300, 361)]
PAIRS = Pairs(
    [ids(*range(2, 3 + i % 5)) for i in range(10)], [ids(7 + i, 1) for i in range(10)], joined=False
)


def test_windows_of_an_epoch_predict_no_token_twice() -> None:
    windows = Windows(DOCUMENTS, 8)
    predicted: Counter[int] = Counter()
    for batch in windows.batches(4, seed=1, epoch=3):
        for number in batch:
            read, labels = windows.row(number)
            assert (len(read), len(labels)) == (8, 8)
            assert read[1:].tolist() == labels[:-1].tolist()
            predicted.update(labels.tolist())
    assert max(predicted.values()) == 1
    assert len(predicted) >= 134 - 2 * 8


def test_epochs_have_other_windows_in_equal_number() -> None:
    windows = Windows(DOCUMENTS, 8)
    epochs = [windows.batches(4, seed=1, epoch=epoch) for epoch in range(5)]
    assert {len(batches) for batches in epochs} == {windows.batch_count(4)}
    assert epochs[0] != epochs[1]
    assert epochs[2] == windows.batches(4, seed=1, epoch=2)


def test_a_text_shorter_than_a_window_is_one_window() -> None:
    windows = Windows([ids(5, 6, 7, 1)], 512)
    assert windows.batches(8, seed=0, epoch=0) == [[0]]
    read, labels = windows.row(0)
    assert (read.tolist(), labels.tolist()) == ([5, 6, 7], [6, 7, 1])


def test_each_pair_is_in_one_batch_of_an_epoch() -> None:
    batches = PAIRS.batches(3, seed=0, epoch=1)
    assert sorted(number for batch in batches for number in batch) == list(range(10))
    assert len(batches) == PAIRS.batch_count(3) == 4


def test_batches_have_pairs_of_similar_length() -> None:
    for batch in PAIRS.batches(2, seed=0, epoch=0):
        assert len({len(PAIRS.sources[number]) for number in batch}) == 1


def test_a_joined_row_has_no_labels_for_its_source() -> None:
    pairs = Pairs([ids(4, 5, 6)], [ids(8, 9, 1)], joined=True)
    read, labels = pairs.row(0)
    assert read.tolist() == [4, 5, 6, 8, 9]
    assert labels.tolist() == [IGNORED, IGNORED, 8, 9, 1]
    assert pairs.longest() == (5, 5)


def test_padding_is_masked_and_has_no_labels() -> None:
    batch = Collator(pad=0, start=0)([(ids(4, 5), ids(8, 1)), (ids(6), ids(7, 9, 1))])
    assert batch["input_ids"].tolist() == [[4, 5], [6, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [[8, 1, IGNORED], [7, 9, 1]]
    assert batch["decoder_input_ids"].tolist() == [[0, 8, 1], [0, 7, 9]]


def test_a_decoder_only_batch_has_no_decoder_ids() -> None:
    batch = Collator(pad=0, start=None)([(ids(4, 5), ids(5, 6))])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_prompt_and_answer_are_tokenized_apart() -> None:
    tokenizer = byte_level_tokenizer()
    found = encode_pairs(
        [Pair("a", "bc")], ["a\n"], tokenizer, Lengths(50, 50, 50), joined=True
    ).pairs
    assert found.sources[0].tolist() == tokenizer("a\n").input_ids
    assert found.targets[0].tolist() == [*tokenizer("bc").input_ids, tokenizer.eos_token_id]


@pytest.mark.parametrize("lengths", [Lengths(3, 50, 50), Lengths(50, 3, 50), Lengths(50, 50, 8)])
def test_pairs_of_a_decoder_only_model_that_are_too_long_are_left_out(lengths: Lengths) -> None:
    pairs = [Pair("x" * 6, "y" * 6), Pair("x", "y")]
    prompts = [pair.source for pair in pairs]
    found = encode_pairs(pairs, prompts, byte_level_tokenizer(), lengths, joined=True)
    assert (found.kept, found.left_out) == (pairs[1:], 1)


def test_held_out_windows_predict_each_token_once() -> None:
    tokenizer = byte_level_tokenizer()
    texts = ["Once upon a time", "there was a fox"]
    rows = held_out_windows(texts, tokenizer, 5)
    labels = [token for _, labels in rows for token in labels.tolist()]
    end = tokenizer.eos_token_id
    expected = [token for text in texts for token in [*tokenizer(text).input_ids, end]]
    assert labels == expected
    assert rows[0][0][0] == end
