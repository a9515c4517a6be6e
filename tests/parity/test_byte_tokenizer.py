"""ByT5's tokenizer compared with Transformers', on texts and ids, whole and streamed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cached_property
from itertools import product
from typing import Any

import pytest
from transformers import ByT5Tokenizer

from edgeseq.runtime.errors import PromptError
from edgeseq.runtime.text.byte_tokenizer import (
    END_OF_TEXT,
    FIRST_BYTE,
    FIRST_SENTINEL,
    ByteTokenizer,
    is_byte,
    sentinel,
)
from edgeseq.runtime.text.detokenizer import Detokenizer
from tests.support.texts import streamed

# Transformers warns of every text that ends with </s>.
pytestmark = pytest.mark.filterwarnings("ignore:This sequence already has </s>")

SENTINELS = 125
VOCABULARY = FIRST_SENTINEL + SENTINELS
SPECIAL = ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_7>", "<extra_id_124>"]
NEARLY_SPECIAL = [
    "<extra_id_125>",
    "<extra_id_007>",
    "<extra_id_00>",
    "<extra_id_>",
    "<extra_id_-1>",
    "<extra_id_+1>",
    "<extra_id_\u0663>",  # a digit, of another script
    "<extra_id_1",
    "<extra_id_",
    "</S>",
    "<pad",
    "<",
    ">",
    "</",
]
WHITESPACE = [
    " ",
    "   ",
    "\t",
    "\n\n",
    "\r\n",
    "\v",
    "\f",
    "\x1c",
    "\x1f",
    "\x85",
    "\xa0",
    "\u1680",
]
WHITESPACE += ["\u2003", "\u2028", "\u202f", "\u3000", "\u180e", "\u200b", "\ufeff"]
WORDS = [
    "Hello",
    " .",
    " ?",
    " !",
    " ,",
    " ' ",
    " n't",
    " 'm",
    "'s",
    " 've",
    " 're",
    "e\u0301\u0323",
]
WORDS += [
    "na\u00efve",
    "\u4f60\u597d",
    "\U0001f469\u200d\U0001f4bb",
    "\U0001f1e9\U0001f1ea",
    "\ufe0f",
]
WORDS += [
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u202eabc\u202c",
    "\u0915\u094d",
]
WORDS += [
    "\x00",
    "\x01\x1b[0m",
    "\x7f",
    "\x9f",
    "\ufffd",
    "\ufffe",
    "\U0010ffff",
    "\xc3\xa9",
    "\xff",
]
FRAGMENTS = [*SPECIAL, *NEARLY_SPECIAL, *WHITESPACE, *WORDS]
PLANES = [(0x20, 0x7F), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]

# Bytes of every kind that UTF-8 tells apart, and tokens that may stand between them.
ODD_BYTES = [0x41, 0x80, 0x90, 0xA0, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xFF]
ODD_IDS = [*(FIRST_BYTE + byte for byte in ODD_BYTES), END_OF_TEXT, FIRST_SENTINEL]


def varied_texts(count: int) -> Iterator[str]:
    generator = random.Random(count)
    for _ in range(count):
        parts = [
            generator.choice(FRAGMENTS)
            if generator.random() < 0.8
            else chr(generator.randrange(*generator.choice(PLANES)))
            for _ in range(generator.randrange(12))
        ]
        yield "".join(parts)


def varied_ids(count: int) -> Iterator[list[int]]:
    """Yield ids: half of them texts with an id lost or added, half of them random ids."""
    generator = random.Random(count)
    ours = ByteTokenizer(SENTINELS, False)
    for text in varied_texts(count // 2):
        ids = ours.encode(text)
        place = generator.randrange(len(ids))
        ids[place : place + generator.randrange(2)] = generator.choices(ODD_IDS, k=1)
        yield ids[: generator.randrange(len(ids) + 1)] if generator.random() < 0.3 else ids
    for _ in range(count - count // 2):
        kinds = [ODD_IDS, range(VOCABULARY), range(FIRST_BYTE, FIRST_SENTINEL)]
        yield generator.choices(generator.choice(kinds), k=generator.randrange(16))


class Cached(ByT5Tokenizer):
    """Transformers' tokenizer with cached lists of special tokens, else made for every token."""

    @cached_property
    def all_special_tokens(self) -> list[str]:
        return list(super().all_special_tokens)

    @cached_property
    def all_special_ids(self) -> list[int]:
        return list(super().all_special_ids)


Pair = tuple[ByteTokenizer, ByT5Tokenizer]


def pair(sentinels: int = SENTINELS, clean_up: bool = False) -> Pair:
    settings: dict[str, Any] = {
        "extra_ids": sentinels,
        "clean_up_tokenization_spaces": clean_up,
    }
    theirs = Cached(**settings)
    for name in ("all_special_tokens", "all_special_ids"):
        vars(theirs).pop(name, None)  # if it was listed before all were there
    plain = ByT5Tokenizer(**settings)
    assert theirs.all_special_ids == plain.all_special_ids
    assert theirs.all_special_tokens == plain.all_special_tokens
    return ByteTokenizer(sentinels, clean_up), theirs


@pytest.fixture(params=[False, True], ids=["as it is", "cleaned up"], scope="module")
def both(request: pytest.FixtureRequest) -> Pair:
    return pair(clean_up=request.param)


def assert_text_like_transformers(both: Pair, text: str) -> None:
    ours, theirs = both
    ids = ours.encode(text)
    assert ids == theirs(text).input_ids, ascii(text)
    assert_decoded_like_transformers(both, ids)


def assert_decoded_like_transformers(both: Pair, ids: list[int]) -> None:
    ours, theirs = both
    text = theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids) == text, ids
    assert streamed(ours, ids) == text, ids


@pytest.mark.parametrize("text", ["", *FRAGMENTS])
def test_single_fragments(both: Pair, text: str) -> None:
    assert_text_like_transformers(both, text)


def test_varied_texts(both: Pair) -> None:
    for text in varied_texts(2000):
        assert_text_like_transformers(both, text)


def test_special_tokens_beside_each_other_and_beside_whitespace() -> None:
    both = pair()
    parts = [" ", "\u3000", "a", "</s>", "<pad>", "<extra_id_3>", "<extra_id_125>"]
    for chosen in product(parts, repeat=4):
        assert_text_like_transformers(both, "".join(chosen))


def test_varied_ids(both: Pair) -> None:
    for ids in varied_ids(2000):
        assert_decoded_like_transformers(both, ids)


def test_any_three_ids() -> None:
    """Characters cut off, too long, surrogates, or broken by a token that is no byte."""
    both = pair()
    for ids in product(ODD_IDS, repeat=3):
        assert_decoded_like_transformers(both, list(ids))


@pytest.mark.parametrize("sentinels", [0, 1, 10, 400])
def test_other_numbers_of_sentinels(sentinels: int) -> None:
    both = pair(sentinels)
    for number in (0, 1, 9, 10, 125, 399, 400):
        assert_text_like_transformers(both, f"a {sentinel(number)} b")
    for ids in ([FIRST_SENTINEL + number, 100] for number in range(sentinels)):
        assert_decoded_like_transformers(both, ids)


def test_ids_are_those_of_the_paper() -> None:
    """Worked out by hand: 3 + byte, sentinels after the bytes, </s> at the end."""
    ours = ByteTokenizer(SENTINELS, False)
    assert ours.encode("a\u00e9") == [100, 3 + 0xC3, 3 + 0xA9, 1]
    assert ours.encode("a <extra_id_0> b<extra_id_124>") == [100, 35, 259, 35, 101, 383, 1]
    assert ours.encode("a <pad> b </s> ") == [100, 0, 101, 1]
    assert ours.encode("") == [1]
    assert ours.encode("</s></s>") == [1, 1]


def test_ids_past_the_vocabulary_are_left_out(both: Pair) -> None:
    """Transformers raises an error for them."""
    ours, theirs = both
    generator = random.Random(0)
    for ids in varied_ids(300):
        longer = list(ids)
        for past in (VOCABULARY, VOCABULARY + 1, 2**20, 2**40):
            longer.insert(generator.randrange(len(longer) + 1), past)
        text = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(longer) == text
        assert streamed(ours, longer) == text


def test_token_is_none_where_decode_leaves_it_out() -> None:
    ours = ByteTokenizer(SENTINELS, False)
    for token in range(-1, VOCABULARY + 2):
        expected = chr(token - 3) if 3 <= token < 259 else None
        assert ours.token(token) == expected
        assert is_byte(token) is (expected is not None)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\ud83d\ude00", "</s> \udc80 <pad>"])
def test_text_with_half_a_character(text: str) -> None:
    with pytest.raises(PromptError, match=r"lone surrogates.*errors='replace'"):
        ByteTokenizer(SENTINELS, False).encode(text)


@pytest.mark.parametrize("digits", [20, 5000])
def test_sentinel_of_an_enormous_number_is_text(both: Pair, digits: int) -> None:
    """Python refuses to read a number of more than 4,300 digits."""
    assert_text_like_transformers(both, f"a <extra_id_{'9' * digits}> b")


def test_bytes_come_out_as_soon_as_they_are_characters() -> None:
    detokenizer = Detokenizer(ByteTokenizer(SENTINELS, False))
    data = "a\u00e9\U0001f469".encode()
    pushed = [detokenizer.push(FIRST_BYTE + byte) for byte in data]
    assert pushed == ["a", "", "\u00e9", "", "", "", "\U0001f469"]
    assert detokenizer.finish() == ""


def test_bytes_that_are_no_characters_go_and_hold_nothing_back() -> None:
    detokenizer = Detokenizer(ByteTokenizer(SENTINELS, False))
    pushed = [detokenizer.push(FIRST_BYTE + byte) for byte in b"\xffa\xe2\x82b\xe2\x82"]
    assert pushed == ["", "a", "", "", "b", "", ""]
    assert detokenizer.finish() == ""


def test_a_sentinel_does_not_break_the_character_around_it() -> None:
    detokenizer = Detokenizer(ByteTokenizer(SENTINELS, False))
    ids = [FIRST_BYTE + 0xC3, FIRST_SENTINEL + 5, 1, FIRST_BYTE + 0xA9]
    assert [detokenizer.push(token) for token in ids] == ["", "", "", "\u00e9"]
