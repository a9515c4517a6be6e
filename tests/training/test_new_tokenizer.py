"""training/tokens/new_tokenizer.py: tokenizers that lose nothing of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from edgeseq.export.checkpoint.tokenizer import write_tokenizer
from edgeseq.runtime.text.tokenizer import Tokenizer
from edgeseq.training.tokens.new_tokenizer import train_tokenizer

TEXTS = ["March 5, 1998", "Ein  Straßenbahn\nZeile", "the 3rd of May"] * 5
HARD = [
    "March 5, 1998",
    " a  b ",
    "\n\n x\ty ",
    "日本語 ü🙂",
    "a\r\nb",
    "MARCH Ünder",
    " ",
    "  ",
    "",
]


def saved(folder: Path, **settings: Any) -> Any:
    train_tokenizer({"vocab_size": 420, **settings}, TEXTS).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
@pytest.mark.parametrize("split_digits", [True, False])
@pytest.mark.parametrize("text", HARD)
def test_a_text_survives_exactly(
    tmp_path: Path, algorithm: str, split_digits: bool, text: str
) -> None:
    tokenizer = saved(tmp_path, algorithm=algorithm, split_digits=split_digits)
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_the_runtime_reads_and_decodes_it_alike(tmp_path: Path, algorithm: str) -> None:
    tokenizer = saved(tmp_path / "in", algorithm=algorithm)
    (tmp_path / "out").mkdir()
    form = write_tokenizer(tmp_path / "in", tmp_path / "out")
    runtime = Tokenizer(tmp_path / "out" / str(form.file), form.clean_up_tokenization_spaces)
    for text in HARD:
        ids = tokenizer(text).input_ids
        assert runtime.encode(text) == ids
        assert runtime.decode(ids) == text


def test_digits_are_tokens_of_their_own(tmp_path: Path) -> None:
    tokens = saved(tmp_path, algorithm="unigram", split_digits=True).tokenize("in 1998")
    assert tokens[-4:] == ["1", "9", "9", "8"]


def test_unigram_ends_a_text_and_has_the_special_tokens_of_t5(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, algorithm="unigram")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer("May").input_ids[-1] == 1


def test_bpe_has_the_end_of_text_token_of_gpt2(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, algorithm="bpe")
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer("May").input_ids[-1] != tokenizer.eos_token_id


def test_lowercase_is_an_option(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, algorithm="unigram", lowercase=True)
    assert tokenizer.decode(tokenizer("March MAY").input_ids, skip_special_tokens=True) == (
        "march may"
    )


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_the_vocabulary_is_no_larger_than_asked(tmp_path: Path, algorithm: str) -> None:
    assert len(saved(tmp_path, algorithm=algorithm)) <= 420


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_the_same_texts_make_the_same_tokenizer(algorithm: str) -> None:
    settings = {"algorithm": algorithm, "vocab_size": 420}
    made = {train_tokenizer(settings, TEXTS).backend_tokenizer.to_str() for _ in range(4)}
    assert len(made) == 1
