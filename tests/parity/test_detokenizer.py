"""The detokenizer: text piece by piece, compared with decoding all ids at once."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from edgeseq.runtime.text.detokenizer import Detokenizer
from edgeseq.runtime.text.tokenizer import CLEAN_UPS, Tokenizer

SPACES = [" .", " ?", "!", " ,", " '", "' ", " n", "'t", "'m", " 's", "'v", "e", " 're", "  ", "'"]
SCRIPTS = "a\u00e9\u20ac\u4f60\U0001f469\u200d\U0001f4bb\ufe0f\u05e9\u0634\u202e\x00\x1b\n\t \ufffd"
CORPUS = [
    "It 's a test . Do n't we 've , I 'm ' quoted ' ? You 're !",
    "na\u00efve caf\u00e9 \u2014 \u20ac",
    "\u4f60\u597d \U0001f469\u200d\U0001f4bb \u05e9\u05dc\u05d5\u05dd",
]
# An incomplete character decodes to one U+FFFD, but Python waits for the end of a surrogate's three
# bytes, of which two decode to two. Each stage of the clean-up holds less than its pattern.
LONGEST_TAIL = 2
LONGEST_TAIL_IN_CLEAN_UP = sum(len(old) - 1 for old, _ in CLEAN_UPS)


def byte_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    return backend


def gpt2() -> tokenizers.Tokenizer:
    """Return byte-level BPE with special tokens and added ones in and outside the alphabet."""
    backend = byte_level()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(["<|endoftext|>", "\u00e9"])
    backend.add_tokens(
        [AddedToken("<\u00e2>"), "hello\u00e2", AddedToken(" \u20ac \ufffd"), *SPACES, "\u20ac"]
    )
    return backend


def t5() -> tokenizers.Tokenizer:
    special = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    words = [text.replace(" ", "\u2581") for text in SPACES]
    words += ["\u2581", "\u2581\u2581\u2581", "\u2581a", "a\u2581b", " ", *SCRIPTS]
    vocab = [*((name, 0.0) for name in special), *((word, -2.0) for word in words)]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return backend


def llama(strip: int = 1) -> tokenizers.Tokenizer:
    """Return BPE with byte fallback; the bytes that make every kind of bad UTF-8 are there."""
    text = "a\u00e9\u20ac\U0001f469 \x80\xa0".encode()
    data = sorted({*text, 0x80, 0xA0, 0xBF, 0xC0, 0xED, 0xEF, 0xBD, 0xF4, 0xFF})
    words = ["</s>", *(f"<0x{byte:02X}>" for byte in data), "\u2581", "\u2581a", "\u2581\u2581"]
    words += [text.replace(" ", "\u2581") for text in SPACES] + ["\u20ac", "\ufffd", "", "<0x"]
    backend = tokenizers.Tokenizer(
        models.BPE(
            {word: index for index, word in enumerate(dict.fromkeys(words))}, [], byte_fallback=True
        )
    )
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", strip, 0)] if strip else parts)
    backend.add_special_tokens(["</s>"])
    return backend


def words(decoder: decoders.Decoder | None) -> tokenizers.Tokenizer:
    names = ["[SEP]", "a", "##b", "'", "##s", ".", "n't", "c</w>", "", "do not", "\u4f60"]
    backend = tokenizers.Tokenizer(
        models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[SEP]")
    )
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["[SEP]"])
    return backend


BACKENDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level,
    "gpt2": gpt2,
    "t5": t5,
    "llama": llama,
    "two spaces stripped": lambda: llama(2),
    "gemma": lambda: llama(0),
    "no decoder": lambda: words(None),
    "word piece": lambda: words(decoders.WordPiece()),
    "word endings": lambda: words(decoders.BPEDecoder()),  # one of those that are not followed
}


@cache
def load(name: str, clean_up: bool = False) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        BACKENDS[name]().save(str(path))
        return Tokenizer(path, clean_up)


@cache
def reference(name: str, clean_up: bool) -> PreTrainedTokenizerFast:
    backend = BACKENDS[name]()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, clean_up_tokenization_spaces=clean_up
    )


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return what each push gives, and last what `finish` gives."""
    detokenizer = Detokenizer(tokenizer)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("name", BACKENDS)
def test_pieces_join_to_the_decoded_text(name: str, clean_up: bool) -> None:
    ours, theirs = load(name, clean_up), reference(name, clean_up)

    @settings(max_examples=150, derandomize=True, database=None, deadline=None)
    @given(st.lists(st.integers(0, len(theirs)), max_size=24))
    def check(ids: list[int]) -> None:
        text = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == text
        assert "".join(pieces(ours, ids)) == text

    check()


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "t5", "llama"])
def test_pieces_of_varied_texts_join_to_the_decoded_text(name: str, clean_up: bool) -> None:
    ours, theirs = load(name, clean_up), reference(name, clean_up)
    generator = random.Random(0)
    for _ in range(2000):
        parts = generator.choices([*CORPUS, *SPACES, *SCRIPTS, "</s>"], k=generator.randrange(10))
        ids = ours.encode("".join(parts))
        place = generator.randrange(len(ids) + 1)
        for tokens in (ids, ids[place:], ids[:place]):  # whole, and cut off within a character
            text = theirs.decode(tokens, skip_special_tokens=True)
            assert ours.decode(tokens) == text
            assert "".join(pieces(ours, tokens)) == text


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("name", ["byte level", "gpt2", "t5"])
def test_text_comes_out_at_once(name: str, clean_up: bool) -> None:
    tokenizer = load(name, clean_up)
    longest_tail = LONGEST_TAIL + (LONGEST_TAIL_IN_CLEAN_UP if clean_up else 0)

    @settings(max_examples=100, derandomize=True, database=None, deadline=None)
    @given(st.lists(st.integers(0, len(reference(name, clean_up))), max_size=24))
    def check(ids: list[int]) -> None:
        *pushed, _ = pieces(tokenizer, ids)
        assert len(tokenizer.decode(ids)) - len("".join(pushed)) <= longest_tail

    check()


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_fork_goes_on_by_itself_and_held_text_is_what_finish_returns(
    name: str, clean_up: bool
) -> None:
    tokenizer = load(name, clean_up)
    ids = st.lists(st.integers(0, len(reference(name, clean_up))), max_size=12)

    @settings(max_examples=100, derandomize=True, database=None, deadline=None)
    @given(ids, st.tuples(ids, ids))
    def check(start: list[int], ends: tuple[list[int], list[int]]) -> None:
        detokenizer = Detokenizer(tokenizer)
        text = "".join(map(detokenizer.push, start))
        assert text + detokenizer.held() == tokenizer.decode(start)
        ways = [detokenizer.fork(), detokenizer]
        texts = [text + "".join(map(way.push, end)) for way, end in zip(ways, ends, strict=True)]
        for way, text, end in zip(ways, texts, ends, strict=True):
            assert text + way.held() == text + way.finish() == tokenizer.decode([*start, *end])

    check()


def test_held_text_stays_held() -> None:
    tokenizer = load("gpt2", clean_up=True)
    detokenizer = Detokenizer(tokenizer)
    ids = ids_of(tokenizer, "a", " '") + byte_tokens(tokenizer, b"\xe2\x82\xac")
    assert [(detokenizer.push(token), detokenizer.held()) for token in ids] == [
        ("a", ""),
        ("", " '"),
        ("", " '\ufffd"),
        ("", " '\ufffd"),
        (" '\u20ac", ""),
    ]


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(st.text(st.sampled_from(SCRIPTS) | st.characters(exclude_categories=["Cs"]), max_size=12))
def test_any_text_survives_byte_level_tokens(text: str) -> None:
    tokenizer = load("byte level")
    assert "".join(pieces(tokenizer, tokenizer.encode(text))) == text


def ids_of(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    ids = {tokenizer.token(index): index for index in range(400)}
    return [ids[token] for token in tokens]


def byte_tokens(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Return the ids of the byte-level tokens of single bytes."""
    spelling = bytes_to_unicode()
    return ids_of(tokenizer, *(spelling[byte] for byte in data))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("\u00e9".encode(), ["", "\u00e9", ""]),
        ("\U0001f469".encode(), ["", "", "", "\U0001f469", ""]),
        ("\ufffd".encode(), ["", "", "\ufffd", ""]),
        (b"\xff\xff", ["\ufffd", "\ufffd", ""]),
        (b"\xe2\x82a", ["", "", "\ufffda", ""]),
        (b"a\xe2\x82", ["a", "", "", "\ufffd"]),
    ],
)
def test_bytes_come_out_as_soon_as_they_are_characters(data: bytes, expected: list[str]) -> None:
    tokenizer = load("byte level")
    assert pieces(tokenizer, byte_tokens(tokenizer, data)) == expected


def test_text_before_an_incomplete_character_is_not_held_back() -> None:
    tokenizer = load("gpt2")
    # An added token is spelled as it is unless all of it is in the alphabet of bytes: 0xE2 here.
    ids = ids_of(tokenizer, "hello\u00e2") + byte_tokens(tokenizer, b"\x82\xac")
    assert pieces(tokenizer, ids) == ["hello", "", "\u20ac", ""]


def test_clean_up_reaches_over_pieces() -> None:
    tokenizer = load("gpt2", clean_up=True)
    ids = ids_of(tokenizer, "a", " '", "  ", "'m", " n", "'t", " n", "e", " .", " 's")
    assert pieces(tokenizer, ids) == ["a", "", "", "''m", "", "n't", "", " ne", ".", "'s", ""]


def test_clean_up_gives_out_a_tail_that_nothing_followed() -> None:
    tokenizer = load("gpt2", clean_up=True)
    assert pieces(tokenizer, ids_of(tokenizer, "e", " '", "v")) == ["e", "", "", " 'v"]


def test_only_the_first_leading_space_is_taken_off() -> None:
    tokenizer = load("t5")
    start = [1, 0]  # special tokens do not count as the first
    ids = start + ids_of(tokenizer, "\u2581a", "\u2581a", "\u2581")
    assert pieces(tokenizer, ids) == ["", "", "a", " a", " ", ""]


def test_byte_fallback_is_certain_once_the_run_ends_or_breaks() -> None:
    tokenizer = load("llama")
    whole = ids_of(tokenizer, "<0xC3>", "<0xA9>", "\u2581a")
    assert pieces(tokenizer, whole) == ["", "", "\u00e9 a", ""]
    broken = ids_of(tokenizer, "<0xC3>", "<0xA9>", "<0xFF>", "<0xC3>", "\u2581a", "<0xC3>")
    assert pieces(tokenizer, broken) == ["", "", "\ufffd" * 3, "\ufffd", " a", "", "\ufffd"]


def test_an_unknown_decoder_gives_its_text_at_the_end() -> None:
    tokenizer = load("word endings")
    assert pieces(tokenizer, ids_of(tokenizer, "a", "c</w>", "a")) == ["", "", "", "ac a"]


def test_no_tokens_give_no_text() -> None:
    assert [pieces(load(name), []) for name in BACKENDS] == [[""]] * len(BACKENDS)
