"""Stop strings on tokens and on pieces of text, compared with a search in the whole text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast, StopStringCriteria
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.text.byte_tokenizer import FIRST_BYTE, AnyTokenizer, ByteTokenizer
from edgeseq.runtime.text.detokenizer import Detokenizer
from edgeseq.runtime.text.stop_strings import StopFilter, StopMatcher, cut
from edgeseq.runtime.text.tokenizer import Tokenizer

CODER = "\U0001f469\u200d\U0001f4bb"  # one sign, three characters, eleven bytes
TEXTS = [
    f"Once upon a time; he said: \u201cLet us go!\u201d {CODER} na\u00efve\n\nEnd. ### a . b 's",
    "aaab aab  ab \n\n\n b a , \ufffd x",
]
DEMOS = ("gpt2", "t5")
NAMES = ("gpt2", "t5", *(f"{name} demo" for name in DEMOS), "byt5", "byte fallback", "unknown")

thoroughly = settings(max_examples=150, derandomize=True, database=None, deadline=None)


def byte_fallback() -> tokenizers.Tokenizer:
    names = [*(f"<0x{byte:02X}>" for byte in range(256)), *"ab.!'", "\u2581", "\u2581a", "</s>"]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(["</s>"])
    return backend


def unknown() -> tokenizers.Tokenizer:
    """Return a tokenizer whose text the detokenizer holds back to the end."""
    names = ["a", "b</w>", "aab", ".</w>", "\n"]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    backend.decoder = decoders.BPEDecoder()
    return backend


@pytest.fixture(scope="session")
def load(
    checkpoint: Path, t5_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AnyTokenizer]:
    files = {"gpt2": checkpoint, "t5": t5_checkpoint}
    files |= {f"{name} demo": demo_bundle(name) for name in DEMOS}
    for name, backend in (("byte fallback", byte_fallback()), ("unknown", unknown())):
        files[name] = tmp_path_factory.mktemp("tokenizer")
        backend.save(str(files[name] / "tokenizer.json"))

    def load(name: str, clean_up: bool = False) -> AnyTokenizer:
        if name == "byt5":
            return ByteTokenizer(125, clean_up)
        return Tokenizer(files[name] / "tokenizer.json", clean_up)

    return load


def lists_of_ids(tokenizer: AnyTokenizer) -> st.SearchStrategy[list[int]]:
    """Return lists of any ids, those of `TEXTS` more often, in their order or not."""
    known = [tokenizer.encode(text) for text in TEXTS]
    some = st.lists(st.sampled_from([*known[0], *known[1]]) | st.integers(0, 400), max_size=16)
    places = st.tuples(st.sampled_from(known), st.integers(0, 60), st.integers(1, 12))
    return some | places.map(lambda place: place[0][place[1] :][: place[2]])


def lists_of_stops(text: str) -> st.SearchStrategy[list[str]]:
    """Return one to three stop strings, most of them out of `text`."""
    places = st.tuples(st.integers(0, len(text)), st.integers(1, 6))
    parts = places.map(lambda place: text[place[0] :][: place[1]]).filter(bool)
    others = st.text(st.sampled_from("ab .\n\ufffd"), min_size=1, max_size=3)
    return st.lists(parts | others if text else others, min_size=1, max_size=3)


def seen(tokenizer: AnyTokenizer, context: Sequence[int], ids: Sequence[int]) -> str:
    """Return what `ids` add to the text: its end is no U+FFFD that a next token could change."""
    detokenizer = Detokenizer(tokenizer)
    old = "".join(map(detokenizer.push, context))
    certain = old + "".join(map(detokenizer.push, ids))
    rest = tokenizer.decode([*context, *ids])[len(certain) :]
    return certain[len(old) :] + rest.rstrip("\ufffd")


def first_stop(matcher: StopMatcher, ids: Sequence[int]) -> int | None:
    """Return how many of `ids` it takes until the matcher stops."""
    return next((number for number, token in enumerate(ids, 1) if matcher.push(token)), None)


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_matcher_stops_where_a_stop_string_is_complete(
    load: Callable[..., AnyTokenizer], name: str, clean_up: bool
) -> None:
    tokenizer = load(name, clean_up)
    ids = lists_of_ids(tokenizer)

    @thoroughly
    @given(ids, ids, st.data())
    def check(context: list[int], new: list[int], data: st.DataObject) -> None:
        stops = data.draw(lists_of_stops(tokenizer.decode(context + new)))
        found = [
            any(stop in seen(tokenizer, context, new[:size]) for stop in stops)
            for size in range(1, len(new) + 1)
        ]
        detokenizer = Detokenizer(tokenizer)
        for token in context:
            detokenizer.push(token)
        matcher = StopMatcher(detokenizer, stops)
        expected = [any(found[:size]) for size in range(1, len(new) + 1)]
        assert [matcher.push(token) for token in new] == expected

    check()


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_fork_goes_on_by_itself(
    load: Callable[..., AnyTokenizer], name: str, clean_up: bool
) -> None:
    tokenizer = load(name, clean_up)
    ids = lists_of_ids(tokenizer)

    @thoroughly
    @given(ids, st.tuples(ids, ids), st.data())
    def check(start: list[int], ends: tuple[list[int], list[int]], data: st.DataObject) -> None:
        text = tokenizer.decode(start + data.draw(st.sampled_from(ends)))
        stops = data.draw(lists_of_stops(text))
        matcher = StopMatcher(Detokenizer(tokenizer), stops)
        for token in start:
            matcher.push(token)
        for way, end in zip((matcher.fork(), matcher), ends, strict=True):
            alone = StopMatcher(Detokenizer(tokenizer), stops)
            expected = [alone.push(token) for token in start + end][len(start) :]
            assert [way.push(token) for token in end] == expected

    check()


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_was_stopped_is_cut(
    load: Callable[..., AnyTokenizer], name: str, clean_up: bool
) -> None:
    tokenizer = load(name, clean_up)

    @thoroughly
    @given(lists_of_ids(tokenizer), st.data())
    def check(ids: list[int], data: st.DataObject) -> None:
        stops = data.draw(lists_of_stops(tokenizer.decode(ids)))
        size = first_stop(StopMatcher(Detokenizer(tokenizer), stops), ids)
        text = tokenizer.decode(ids[:size])
        assert size is None or cut(text, stops) != text
        detokenizer = Detokenizer(tokenizer)
        pieces = [*map(detokenizer.push, ids[:size]), detokenizer.finish()]
        assert filtered(pieces, stops)[-1] == cut(text, stops)

    check()


def matches(tokenizer: AnyTokenizer, ids: Sequence[int], *stops: str) -> list[bool]:
    matcher = StopMatcher(Detokenizer(tokenizer), stops)
    return [matcher.push(token) for token in ids]


@pytest.mark.parametrize(
    ("data", "stop", "expected"),
    [
        (CODER.encode(), CODER, [*[False] * 10, True]),
        (CODER.encode(), "\U0001f469", [*[False] * 3, *[True] * 8]),
        (CODER.encode(), "\ufffd", [False] * 11),  # which it is at most places on the way
        (b"\xf0\x9fa", "\ufffd", [False, False, True]),  # nothing comes of the two bytes
        (b"\xff", "\ufffd", [True]),
        ("\ufffd".encode(), "\ufffd", [False, False, True]),
        (b"a\xf0", "a", [True, True]),
    ],
)
def test_a_character_counts_once_it_is_certain(
    load: Callable[..., AnyTokenizer], data: bytes, stop: str, expected: list[bool]
) -> None:
    tokenizer = load("gpt2")
    spelling = bytes_to_unicode()
    ids = {tokenizer.token(token): token for token in range(320)}
    assert matches(tokenizer, [ids[spelling[byte]] for byte in data], stop) == expected


def test_special_tokens_are_no_text(load: Callable[..., AnyTokenizer]) -> None:
    tokenizer = load("gpt2")
    ids = [*tokenizer.encode("a"), 0, *tokenizer.encode("b")]
    assert matches(tokenizer, ids, "ab") == [False, False, True]
    assert not any(matches(tokenizer, ids, "<|endoftext|>"))


def test_a_leading_space_that_is_taken_off_is_no_text(load: Callable[..., AnyTokenizer]) -> None:
    tokenizer = load("t5")
    once = tokenizer.encode("Once")  # the first piece has a space, which only a context keeps
    assert not any(matches(tokenizer, once, " "))
    assert any(matches(tokenizer, once + once, " "))
    detokenizer = Detokenizer(tokenizer)
    for token in once:
        detokenizer.push(token)
    assert first_stop(StopMatcher(detokenizer, [" "]), once) == 1


def test_text_that_is_held_back_counts(load: Callable[..., AnyTokenizer]) -> None:
    tokenizer = load("byte fallback")
    assert matches(tokenizer, [0x61, 0x0A], "a\n") == [False, True]
    assert matches(tokenizer, [0x0A, 0xFF], "\n\ufffd") == [False, False]  # both broken by one
    cleaning = load("gpt2", clean_up=True)
    assert matches(cleaning, cleaning.encode("a ."), "a ") == [False, True, True]
    assert matches(cleaning, cleaning.encode("a ."), "a.") == [False, False, True]


def test_a_context_does_not_count(load: Callable[..., AnyTokenizer]) -> None:
    tokenizer = load("byt5")
    detokenizer = Detokenizer(tokenizer)
    for byte in b"stop":
        detokenizer.push(FIRST_BYTE + byte)
    matcher = StopMatcher(detokenizer, ["stop", "ps"])
    assert first_stop(matcher, [FIRST_BYTE + byte for byte in b"sto stop"]) == 8


# Transformers


def theirs(tokenizer: Any, ids: Sequence[int], stops: list[str]) -> int | None:
    """Return how many of `ids` it takes until Transformers stops."""
    criteria = StopStringCriteria(tokenizer, stops)
    ends = (
        size
        for size in range(1, len(ids) + 1)
        if criteria(torch.tensor([ids[:size]]), torch.empty(0)).item()
    )
    return next(ends, None)


@pytest.mark.parametrize(("name", "examples"), [("gpt2", 400), ("gpt2 demo", 60)])
def test_stops_where_transformers_does(
    load: Callable[..., AnyTokenizer], checkpoint: Path, name: str, examples: int
) -> None:
    """On tokens that are whole characters, since Transformers looks at each token alone."""
    ours = load(name)
    folder = checkpoint if name == "gpt2" else demo_bundle("gpt2")
    reference = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))  # type: ignore[no-untyped-call]
    whole = [token for token in range(1, len(reference)) if "\ufffd" not in ours.decode([token])]
    known = [token for text in TEXTS for token in ours.encode(text) if token in whole]
    generator = random.Random(0)
    stopped = 0
    for _ in range(examples):
        ids = generator.choices(known, k=12) + generator.choices(whole, k=8)
        generator.shuffle(ids)
        text = ours.decode(ids)
        stops = [text[place:][: generator.randrange(1, 7)] for place in (4, 9, len(text) - 3)]
        stops = generator.sample([*stops, "###", "aab", "\n\n", "oz "], k=2)
        size = first_stop(StopMatcher(Detokenizer(ours), stops), ids)
        assert size == theirs(reference, ids, stops)
        stopped += size is not None
    assert stopped > examples // 2


def test_finds_a_character_across_tokens_that_transformers_misses(
    load: Callable[..., AnyTokenizer], checkpoint: Path
) -> None:
    """A character whose bytes lie in several tokens."""
    tokenizer = load("gpt2")
    reference = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    ids = tokenizer.encode(f"a {CODER} b")
    assert theirs(reference, ids, [CODER + " b"]) is None
    assert first_stop(StopMatcher(Detokenizer(tokenizer), [CODER + " b"]), ids) == len(ids)


# Pieces of text

LETTERS = st.sampled_from(["a", "a", "b", "b", " ", "\n", "\u00e9", "\U0001f469", "\u200d"])
PIECES = st.lists(st.text(LETTERS, max_size=4), max_size=10)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=4)


def filtered(pieces: Sequence[str], stops: Sequence[str]) -> list[str]:
    """Return what the reader has after each of the pieces, and at the end."""
    stop_filter = StopFilter(stops)
    texts = [""]
    for piece in pieces:
        texts.append(texts[-1] + stop_filter.push(piece))
    return [*texts[1:], texts[-1] + stop_filter.finish()]


def brute_cut(text: str, stops: Sequence[str]) -> str:
    size = next(
        size for size in count() if size == len(text) or text.startswith(tuple(stops), size)
    )
    return text[:size]


@settings(thoroughly, max_examples=1500)
@given(PIECES, STOPS)
@example(["aaab"], ["aab"])
@example(["a", "a", "a", "b"], ["aab"])
@example(["ab", "c"], ["abc", "b"])
@example(["ab", "d"], ["abc", "b"])
@example(["ab", ""], ["abc", "ab"])
def test_pieces_join_to_the_cut_text(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    assert filtered(pieces, stops)[-1] == cut(text, stops) == brute_cut(text, stops)


@settings(thoroughly, max_examples=500)
@given(PIECES, STOPS)
def test_only_what_may_become_a_stop_string_is_held_back(
    pieces: list[str], stops: list[str]
) -> None:
    starts = tuple(stop[:size] for stop in stops for size in range(1, len(stop)))
    for number, text in enumerate(filtered(pieces, stops)[:-1], 1):
        joined = "".join(pieces[:number])
        candidates = (size for size in range(len(joined)) if joined[size:] in starts)
        certain = min(next(candidates, len(joined)), len(brute_cut(joined, stops)))
        before = len(brute_cut("".join(pieces), stops))
        assert text == joined[: min(certain, before)]


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["a", "a", "a", "b", "c"], ["aab"], ["", "", "a", "a", "a", "a"]),
        (["xa", "b", "c"], ["abc", "b"], ["x", "x", "x", "x"]),
        (["xa", "b", "d"], ["abc", "b"], ["x", "x", "xa", "xa"]),
        (["xa", "b"], ["abc", "b"], ["x", "x", "xa"]),
        (["xab", "c"], ["abc", "ab"], ["x", "x", "x"]),
        (["x\n", "\n", "y"], ["\n\n"], ["x", "x", "x", "x"]),
        (["x ", "stop", "y"], [" stop "], ["x", "x", "x stopy", "x stopy"]),
        (["x", " st"], [" stop "], ["x", "x", "x st"]),
        (["x", "y"], [], ["x", "xy", "xy"]),
    ],
)
def test_the_filter_holds_back_what_may_become_a_stop_string(
    pieces: list[str], stops: list[str], expected: list[str]
) -> None:
    assert filtered(pieces, stops) == expected


@pytest.mark.parametrize(("stops", "size"), [(["abcdef", "xyz"], 5), (["x"], 0), ([], 0)])
def test_no_more_is_kept_than_may_count(stops: list[str], size: int) -> None:
    matcher = StopMatcher(Detokenizer(ByteTokenizer(0, False)), stops)
    stop_filter = StopFilter(stops)
    for byte in b"abcdeabcde" * 20:
        matcher.push(FIRST_BYTE + byte)
        stop_filter.push(chr(byte))
        for kept in (matcher, stop_filter):
            assert (
                sum(len(value) for value in vars(kept).values() if isinstance(value, str)) <= size
            )
