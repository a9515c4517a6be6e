"""Constrained decoding: masks of tokens for regular expressions, JSON Schemas and grammars."""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models

import edgeseq.runtime
from edgeseq.runtime.errors import MissingPackageError, OptionError
from edgeseq.runtime.logits import guidance
from edgeseq.runtime.logits.guidance import Guide
from edgeseq.runtime.text.byte_tokenizer import FIRST_BYTE, AnyTokenizer, ByteTokenizer
from edgeseq.runtime.text.tokenizer import Tokenizer
from tests.support.errors import refusal
from tests.support.tiny_tokenizers import byte_level_bpe, unigram

END = 1
DEMOS = Path(edgeseq.runtime.__file__).parent / "bundle" / "demos"
FORMS = {
    "json_schema": "a JSON Schema (an object) of keywords that llguidance supports",
    "regex": "a regular expression without look-around, word boundaries and back-references",
    "grammar": "a grammar in llguidance's Lark dialect",
}
TINY = ["</s>", "a", "b", "ab", "\u2581", "\u2581a", "\u2581\u2581b", "\u00e9", "a", "ba", "c"]


@pytest.fixture
def tokenizer_of(tmp_path: Path) -> Callable[..., Tokenizer]:
    """``tokenizer_of(decoder, tokens)``: one of these tokens, the first and "<s>" special."""

    def make(decoder: decoders.Decoder | None, tokens: Sequence[str]) -> Tokenizer:
        backend = tokenizers.Tokenizer(
            models.WordLevel({token: index for index, token in enumerate(tokens)}, tokens[0])
        )
        if decoder is not None:
            backend.decoder = decoder
        backend.add_special_tokens([token for token in tokens if token in ("<s>", "</s>")])
        backend.save(str(tmp_path / "tokenizer.json"))
        return Tokenizer(tmp_path / "tokenizer.json", clean_up_tokenization_spaces=False)

    return make


@cache
def known(name: str) -> tuple[AnyTokenizer, int, int]:
    """Return a tokenizer, a vocabulary a little larger than its own, and its end token."""
    if name == "bytes":
        return ByteTokenizer(5, clean_up_tokenization_spaces=False), 384, END
    tokenizer = Tokenizer(DEMOS / name / "tokenizer.json", clean_up_tokenization_spaces=False)
    return tokenizer, {"gpt2": 4100, "t5": 150}[name], {"gpt2": 0, "t5": END}[name]


def guide_of(name: str, **what: Any) -> Guide:
    tokenizer, vocabulary, end = known(name)
    return Guide(tokenizer, vocabulary, [end], **what)


def allowed(guide: Guide, vocabulary: int, tokens: Sequence[int], at_start: bool) -> list[int]:
    row = np.arange(vocabulary, dtype=np.float32)
    guide.filter(row, tokens, at_start=at_start)
    ids: list[int] = np.flatnonzero(np.isfinite(row)).tolist()
    assert row[ids].tolist() == ids  # the others' logits are as they were
    return ids


def walk(name: str, generator: random.Random, longest: int = 400, **what: Any) -> str | None:
    """Return the text of tokens drawn evenly from the allowed ones; None after a dead end."""
    tokenizer, vocabulary, end = known(name)
    guide = guide_of(name, **what)
    tokens: list[int] = []
    while len(tokens) < longest:
        ids = allowed(guide, vocabulary, tokens, True)
        if not ids:
            assert guide.describe_dead_end()
            return None
        tokens.append(generator.choice(ids))
        if tokens[-1] == end:
            return tokenizer.decode(tokens)
    raise AssertionError(f"no end: {tokenizer.decode(tokens)!r}")


REGEXES = [
    "positive|negative",
    "(in|inter|internal|international)( law)?",
    "[a-c]{2,5}x?",
    "(ab|abc|abcd){1,3}",
    " ?leading",
    "",
    "(a|the) [a-z]{1,6} (ran|rang|range)",
]
WIDE_REGEXES = [  # of characters that the demo T5 has not
    r"\d{4}-\d\d-\d\d",
    "na\u00efve \u2014 \u20ac{2}",
    "[\u4f60\u597d\U0001f469a]{1,6}!",
    r"(yes|no|maybe)(, (yes|no|maybe)){0,3}\.",
    r"a/b\\c\"[\n/]",
    r"(?i)stra\u00dfe #[0-9a-f]{3}",
    r"[^\W_\x80-\U0010ffff]{1,12}\n",
]


@pytest.mark.parametrize("name", ["gpt2", "t5", "bytes"])
@pytest.mark.parametrize("regex", REGEXES)
def test_walks_match_the_regex(name: str, regex: str) -> None:
    generator = random.Random(0)
    texts = {walk(name, generator, regex=regex) for _ in range(12)}
    assert texts and all(text is not None and re.fullmatch(regex, text) for text in texts)


@pytest.mark.parametrize("name", ["gpt2", "bytes"])
@pytest.mark.parametrize("regex", WIDE_REGEXES)
def test_walks_match_the_regex_of_any_characters(name: str, regex: str) -> None:
    generator = random.Random(0)
    texts = {walk(name, generator, regex=regex) for _ in range(12)}
    assert texts and all(text is not None and re.fullmatch(regex, text) for text in texts)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["glad", "gl\u00fcm", None, 7]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "at": {
            "type": "object",
            "properties": {"x": {"type": "string", "pattern": "^[a-f]{2}$"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "mood", "tags", "at"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("name", ["gpt2", "bytes"])
@pytest.mark.parametrize("schema", [PERSON, json.dumps(PERSON)], ids=["dict", "text"])
def test_walks_obey_the_schema(name: str, schema: Any) -> None:
    generator = random.Random(0)
    for _ in range(15):
        text = walk(name, generator, json_schema=schema)
        assert text is not None
        person = json.loads(text)
        assert list(person) == PERSON["required"]
        assert isinstance(person["name"], str) and len(person["name"]) <= 12
        assert isinstance(person["age"], int) and 0 <= person["age"] <= 150
        assert person["mood"] in ["glad", "gl\u00fcm", None, 7]
        assert len(person["tags"]) <= 3 and all(isinstance(tag, bool) for tag in person["tags"])
        assert list(person["at"]) == ["x"] and re.fullmatch("[a-f]{2}", person["at"]["x"])


def test_json_is_laid_out_as_by_dumps_unless_the_schema_says_otherwise() -> None:
    schema: dict[str, Any] = {"const": {"a": [1, 2], "b": None}}
    assert walk("gpt2", random.Random(0), json_schema=schema) == json.dumps(schema["const"])
    schema["x-guidance"] = {"whitespace_flexible": False}
    assert walk("gpt2", random.Random(0), json_schema=schema) == '{"a":[1,2],"b":null}'


SUM = """
start: term (" + " term){0,4}
term: NUMBER | "(" NUMBER " * " NUMBER ")"
NUMBER: /[1-9][0-9]{0,2}/"""


@pytest.mark.parametrize("name", ["gpt2", "bytes"])
def test_walks_obey_the_grammar(name: str) -> None:
    generator, number = random.Random(0), "[1-9][0-9]{0,2}"
    term = rf"({number}|\({number} \* {number}\))"
    for _ in range(12):
        text = walk(name, generator, grammar=SUM)
        assert text is not None and re.fullmatch(rf"{term}( \+ {term}){{0,4}}", text)


def test_recursive_grammar() -> None:
    guide = guide_of("bytes", grammar='start: "(" start ")" | "x"')
    opened = [FIRST_BYTE + byte for byte in b"((x)"]
    assert allowed(guide, 384, opened, True) == [FIRST_BYTE + ord(")")]
    assert allowed(guide, 384, [*opened, FIRST_BYTE + ord(")")], True) == [END]


def test_all_ends_are_allowed_where_the_text_may_end() -> None:
    tokenizer, vocabulary, _ = known("bytes")
    guide = Guide(tokenizer, vocabulary, [END, 300, END, 999], regex="ab?")
    a, b = (FIRST_BYTE + byte for byte in b"ab")
    assert allowed(guide, vocabulary, [], True) == [a]
    assert allowed(guide, vocabulary, [a], True) == [END, b, 300]
    assert allowed(guide, vocabulary, [a, b], True) == [END, 300]


def test_an_end_is_not_taken_for_text() -> None:
    tokenizer, vocabulary, _ = known("bytes")
    b = FIRST_BYTE + ord("b")
    guide = Guide(tokenizer, vocabulary, [b], regex="a[bc]?")
    assert allowed(guide, vocabulary, [], True) == [b - 1]
    assert allowed(guide, vocabulary, [b - 1], True) == [b, b + 1]
    assert allowed(guide, vocabulary, [b - 1, b + 1], True) == [b]


def test_after_an_end_there_is_no_text() -> None:
    guide = guide_of("bytes", regex="a+")
    a = FIRST_BYTE + ord("a")
    assert allowed(guide, 384, [a, END], True) == [END]
    tokenizer, vocabulary, _ = known("t5")
    ids = {tokenizer.token(index): index for index in range(vocabulary)}
    guide = Guide(tokenizer, vocabulary, [ids["\u2581AA0"]], regex="(AA0)?B")
    assert ids["\u2581AA0"] not in allowed(guide, vocabulary, [], True)
    guide = Guide(tokenizer, vocabulary, [ids["\u2581AA0"]], regex="(AA0)?(B)?")
    assert allowed(guide, vocabulary, [ids["\u2581AA0"]], True) == [ids["\u2581AA0"]]


def test_a_tokenizer_is_read_once_for_a_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = guidance.token_bytes_of, []

    def count(tokenizer: AnyTokenizer) -> Any:
        reads.append(tokenizer)
        return read(tokenizer)

    monkeypatch.setattr(guidance, "token_bytes_of", count)
    tokenizer = ByteTokenizer(5, clean_up_tokenization_spaces=False)
    for regex in ("a", "b"):
        Guide(tokenizer, 384, [END], regex=regex)
    assert reads == [tokenizer]
    a = FIRST_BYTE + ord("a")
    assert allowed(Guide(tokenizer, 259, [END], regex="a"), 259, [], True) == [a]


# Every token of a tiny vocabulary, against all texts of the language


DECODERS: dict[str, Callable[[], decoders.Decoder | None]] = {
    "metaspace": decoders.Metaspace,
    "metaspace that keeps the space": lambda: decoders.Metaspace(prepend_scheme="never"),
    "word piece": lambda: decoders.WordPiece("a"),
    "none": lambda: None,
    "byte fallback": lambda: decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    ),
    "byte fallback, stripped": lambda: decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    ),
}
LANGUAGES = [
    "a*b{1,2}",
    "(ab|aba)( a)?",
    "ab| ab|  b",
    "( a|b)*",
    "(ab?)?",
    "\u00e9a|\u00e9 b",
    "a[^b]{2}",
]
LONGEST = 5


def texts_of(regex: str) -> list[str]:
    """Return the short texts of the language; short prefixes have a completion among them."""
    letters = ["a", "b", "c", " ", "\u00e9", "\u2581"]
    sizes = range(LONGEST + 1)
    texts = ("".join(text) for size in sizes for text in itertools.product(letters, repeat=size))
    return [text for text in texts if re.fullmatch(regex, text)]


def spelled(tokenizer: Tokenizer, vocabulary: int, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the ids of prefixes that are short enough to have a completion among ``texts``."""
    level: list[list[int]] = [[]]
    for _ in range(3):
        yield from level
        level = [[*ids, new] for ids in level for new in viable(tokenizer, vocabulary, ids, texts)]
        level = [ids for ids in level if len(tokenizer.decode(ids)) <= 2]


def viable(
    tokenizer: Tokenizer, vocabulary: int, ids: Sequence[int], texts: Sequence[str]
) -> list[int]:
    """Return the tokens that spell the next part of a text, and the end token after a text."""
    text = tokenizer.decode(ids)
    found = [0] if text in texts else []
    for new in range(1, vocabulary):
        longer = tokenizer.decode([*ids, new])
        if longer != text and any(whole.startswith(longer) for whole in texts):
            found.append(new)
    return found


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("regex", LANGUAGES)
def test_the_mask_allows_exactly_the_tokens_that_lead_to_a_text(
    tokenizer_of: Callable[..., Tokenizer], kind: str, regex: str
) -> None:
    tokenizer = tokenizer_of(DECODERS[kind](), [*list(dict.fromkeys(TINY)), "<s>"])
    vocabulary = len(TINY) + 2
    guide = Guide(tokenizer, vocabulary, [0], regex=regex)
    texts = texts_of(regex)
    for ids in spelled(tokenizer, vocabulary, texts):
        if 0 in ids:
            continue
        expected = viable(tokenizer, vocabulary, ids, texts)
        got = allowed(guide, vocabulary, ids, True)
        silent = {new for new in got if tokenizer.decode([*ids, new]) == tokenizer.decode(ids)}
        # A first token of which the decoder leaves nothing changes what comes after it.
        assert sorted({*got} - silent | {0} & {*got}) == expected
        assert silent - {0} <= {TINY.index("\u2581")} and (not ids or silent <= {0})


def test_bytes_of_a_character_one_at_a_time(tokenizer_of: Callable[..., Tokenizer]) -> None:
    tokenizer = tokenizer_of(
        DECODERS["byte fallback"](), ["</s>", "<0xC3>", "<0xA9>", "<0xA8>", "\u00e9", "x"]
    )
    guide = Guide(tokenizer, 6, [0], regex="\u00e9x")
    assert allowed(guide, 6, [], True) == [1, 4]
    assert allowed(guide, 6, [1], True) == [2]
    assert allowed(guide, 6, [1, 2], True) == allowed(guide, 6, [4], True) == [5]


def test_a_first_token_that_is_all_space(tokenizer_of: Callable[..., Tokenizer]) -> None:
    tokens = ["</s>", "\u2581", "\u2581a", "a", "\u2581b"]
    tokenizer = tokenizer_of(decoders.Metaspace(), tokens)
    guide = Guide(tokenizer, 5, [0], regex="a b")
    assert allowed(guide, 5, [], True) == [1, 2, 3]
    assert allowed(guide, 5, [1], True) == [3]
    assert allowed(guide, 5, [1, 3], True) == allowed(guide, 5, [2], True) == [1, 4]
    assert allowed(guide, 5, [], False) == [3]
    # Where nothing could follow it, it is not allowed itself.
    assert allowed(Guide(tokenizer, 5, [0], regex="b"), 5, [], True) == [4]


def test_leading_space_counts_within_a_text() -> None:
    tokenizer, vocabulary, _ = known("t5")
    guide = guide_of("t5", regex="AA0|B")
    ids = {tokenizer.token(index): index for index in range(vocabulary)}
    assert ids["\u2581AA0"] in allowed(guide, vocabulary, [], True)
    assert ids["\u2581AA0"] not in allowed(guide, vocabulary, [], False)
    assert ids["A"] in allowed(guide, vocabulary, [], False)


@pytest.mark.parametrize("train", [byte_level_bpe, unigram])
def test_any_spelling_of_the_text_is_allowed(
    train: Callable[[], tokenizers.Tokenizer], tmp_path: Path
) -> None:
    train().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", clean_up_tokenization_spaces=False)
    guide = Guide(tokenizer, 320, [1], regex="a clever fox")
    for new in allowed(guide, 320, [], True):
        assert "a clever fox".startswith(tokenizer.decode([new]))
    spellings = {tokenizer.decode([new]) for new in allowed(guide, 320, [], True)}
    every = {tokenizer.decode([new]) for new in range(2, 320)} - {""}
    assert spellings - {""} == {text for text in every if "a clever fox".startswith(text)}


# Beams


def test_forks_in_any_order_give_the_masks_of_fresh_replays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guidance, "MOST_MATCHERS", 5)
    generator = random.Random(0)
    guide = guide_of("gpt2", json_schema=PERSON)
    beams: list[list[int]] = [[]]
    for _ in range(25):
        generator.shuffle(beams)
        grown: list[list[int]] = []
        for beam in beams:
            mask = allowed(guide, 4100, beam, True)
            assert mask == allowed(guide_of("gpt2", json_schema=PERSON), 4100, beam, True)
            grown += [[*beam, generator.choice(mask)] for _ in range(3)]
        beams = generator.sample([beam for beam in grown if beam[-1] != 0] or [[]], k=1) + grown[:2]
        assert len(guide._matchers) <= 5


def test_a_first_token_differs_from_one_after_a_prefix() -> None:
    tokenizer, vocabulary, _ = known("t5")
    ids = {tokenizer.token(index): index for index in range(vocabulary)}
    guide = guide_of("t5", regex="AA0 B| AA0")
    first = [ids["\u2581AA0"]]
    assert allowed(guide, vocabulary, first, False) == [END]
    assert END not in allowed(guide, vocabulary, first, True)
    assert allowed(guide, vocabulary, np.array(first), False) == [END]


def test_a_text_that_broke_the_constraint_has_no_tokens() -> None:
    for tokens in ([FIRST_BYTE], [END], [0], [383], [FIRST_BYTE + 97, END, FIRST_BYTE]):
        guide = guide_of("bytes", regex="ab")
        assert allowed(guide, 384, tokens, True) == []
        assert guide.describe_dead_end().startswith("regex cannot be followed")


# Dead ends


def test_dead_end_is_described() -> None:
    guide = guide_of("t5", regex="cat(\\{x\\}|7)")
    tokens: list[int] = []
    while len(tokens) < 9 and (ids := allowed(guide, 150, tokens, True)):
        assert guide.describe_dead_end() == ""
        tokens.append(ids[-1])
    assert guide.describe_dead_end() == (
        "The model's vocabulary cannot spell any text that regex allows after the text 'cat': "
        "change regex, or use a model whose vocabulary has all characters."
    )


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ({"json_schema": {"type": "object"}}, "'{', which json_schema requires at the start"),
        ({"regex": "[{}]x"}, "any text that regex allows at the start"),
        ({"grammar": 'start: "{" start'}, "'{{{{{{"),
    ],
)
def test_dead_end_at_the_start_is_an_error(what: dict[str, Any], wanted: str) -> None:
    with pytest.raises(OptionError, match=re.escape(f"vocabulary cannot spell {wanted}")):
        guide_of("t5", **what)


# Errors


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ({"regex": "(a"}, 'invalid regex "(a" (in regex): unclosed group.'),
        ({"regex": r"a\b"}, "lookarounds not supported yet"),
        ({"regex": r"(a)\1"}, "backreferences are not supported."),
        (
            {"regex": "(?=a)b"},
            "look-around, including look-ahead and look-behind, is not supported.",
        ),
        ({"json_schema": {"type": "foo"}}, "failed to compile JSON schema: Invalid type: foo."),
        ({"json_schema": {"type": "string", "pattern": "("}}, "schema: unclosed group."),
        ({"json_schema": {"not": {}}}, 'Unimplemented keys: ["not"].'),
        ({"json_schema": {"$ref": "#/x"}}, "Pointer '/x' does not exist."),
        ({"json_schema": False}, "Unsatisfiable schema: schema is false."),
        ({"json_schema": [1]}, "schema must be an object or boolean."),
        ({"json_schema": "{"}, "Expecting property name enclosed in double quotes"),
        ({"json_schema": {"enum": {1}}}, "Object of type set is not JSON serializable."),
        ({"grammar": "start: a"}, 'at 1(8): unknown name: "a".'),
        ({"grammar": 'x: "a"'}, "no start rule found."),
        ({"grammar": ""}, "no start rule found."),
        ({"grammar": 'start: "a'}, "1(10): lexer error."),
        ({"grammar": "start: /(/"}, 'at 1(8): invalid regex "(" (in regex): unclosed group.'),
        ({"grammar": 'start: "a" <|endoftext|>'}, 'unknown special token: "<|endoftext|>"'),
    ],
)
def test_bad_constraints_are_refused(
    what: dict[str, Any], cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (option,) = what
    message = refusal(OptionError, lambda: guide_of("gpt2", **what), ending=r"\.")
    assert message.startswith(f"{option} must be {FORMS[option]}: ")
    assert cause in message
    assert capfd.readouterr() == ("", "")


def test_a_grammar_that_becomes_too_complex(capfd: pytest.CaptureFixture[str]) -> None:
    guide = guide_of("bytes", grammar=f'start: {"a? " * 400}\na: b?\nb: /[a-z]/ | "a" b')
    tokens: list[int] = []
    while len(tokens) < 9 and allowed(guide, 384, tokens, True):
        tokens.append(FIRST_BYTE + ord("a"))
    assert guide.describe_dead_end().startswith("grammar cannot be followed after the text 'aa': ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ends", [[], [384], [-1]])
def test_an_end_of_text_token_is_required(ends: list[int]) -> None:
    with pytest.raises(OptionError, match="regex needs an end-of-text token: pass eos_token_id"):
        Guide(known("bytes")[0], 384, ends, regex="a")


def test_an_unknown_decoder_is_refused(tokenizer_of: Callable[..., Tokenizer]) -> None:
    tokenizer = tokenizer_of(decoders.BPEDecoder(), ["</s>", "a</w>"])
    with pytest.raises(OptionError, match=r"this tokenizer, whose decoder is .*BPEDecoder"):
        Guide(tokenizer, 2, [0], regex="a")


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingPackageError, match=r'pip install "edgeseq\[guidance\]"'):
        guide_of("bytes", regex="a")
