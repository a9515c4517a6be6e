"""Sentences of a text, and the parts of sentences that are too long."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseq.runtime.text.sentences import Span, split_sentences, split_to_fit

SIGNS = "aB. \n\t!?…,;:-*1)\"'(「」。！？।؟é漢字\u0301\u200d\U0001f469  \r\x85\u2028"
TEXTS = st.text(st.one_of(st.sampled_from(SIGNS), st.characters()), max_size=80)


def pieces(text: str, spans: list[Span]) -> list[str]:
    return [text[start:end] for start, end in spans]


def sentences(text: str) -> list[str]:
    return pieces(text, split_sentences(text))


@pytest.mark.parametrize(
    "text",
    [
        "It rains. | We stay! | Do you? | Yes…",
        "“Go home.” | She went. | (Nobody saw it.) | The end.",
        'He said "Stop!" and left. | She asked: "Why?" | Nobody knew.',
        "Really?! | What... was that? | Oh...",
        "Mr. Fox met Dr. J. R. Wolf at 3.14 p.m. on St. Martin's Day. | They talked.",
        "Fruits, e.g. apples, cost 1.50 dollars, i.e. a lot. | See No. 5 and pp. 3 to 7. | Done.",
        "Es war z. B. der 3. Oktober, d. h. ein Feiertag. | Es regnete 1999. | Ja.",
        "Bread, milk, etc. | The shop is on www.example.com/a.b today.",
        "M. Dupont arrive. | ¿Qué hora es? | ¡Son las dos! | Vale.",
        "Она пришла. | Он ушёл! | Ты где?",
        "我去。|他来！|“真的？”她问。|好。",
        "「行くよ。」と彼は言った。|そうか。",
        "यह अच्छा है। | वह गया॥ | ठीक",
        "ما اسمك؟ | اسمي سامي. | شكرا",
        "یہ ٹھیک ہے۔ | وہ گیا۔",
        "Բարեւ։ | Ինչպես ես։",
        "გამარჯობა. | როგორ ხარ?",
        "no capitals here. they stay together! all of them.",
    ],
)
def test_sentences_end_at_full_stops(text: str) -> None:
    """A bar is where a sentence ends; the spaces around it belong to the text."""
    parts = [part.strip() for part in text.split("|")]
    whole = text.replace(" | ", " ").replace("|", "")
    assert sentences(whole) == parts


def test_layout_stays_between_sentences() -> None:
    text = "\n# Title\n\n  - One. Two.\r\n\t* three\n\n12) Four\n> five\n[x] Six\tseven   eight  \n"
    found = ["Title", "One.", "Two.", "three", "Four", "five", "Six", "seven", "eight"]
    assert sentences(text) == found
    spans = split_sentences(text)
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    gaps = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    assert gaps == [
        "\n# ",
        "\n\n  - ",
        " ",
        "\r\n\t* ",
        "\n\n12) ",
        "\n> ",
        "\n[x] ",
        "\t",
        "   ",
        "  \n",
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t", "- ", "1. ", "***"])
def test_text_without_sentences(text: str) -> None:
    assert not any(map(str.isalpha, "".join(sentences(text))))


@given(TEXTS)
def test_all_letters_are_in_sentences(text: str) -> None:
    spans = split_sentences(text)
    end = 0
    for start, stop in spans:
        assert end <= start < stop
        assert text[start:stop] == text[start:stop].strip()
        marks = text[end:start]
        assert sum(map(str.isalpha, marks)) <= marks.count(")") + marks.count("]")  # a) and [x]
        end = stop
    marks = text[end:]
    assert sum(map(str.isalpha, marks)) <= marks.count(")") + marks.count("]")


def is_short(part: str) -> bool:
    return len(part) <= 8


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("short", ["short"]),
        ("one two, three, four", ["one two,", "three,", "four"]),
        ("a, b, c, d, e, f", ["a, b, c,", "d, e, f"]),
        ("one two three four", ["one two", "three", "four"]),
        ("a, incomprehensible, b", ["a,", "incompre", "hensible", ",", "b"]),
        ("我去学校，他也去学校，好", ["我去学校，", "他也去学校，好"]),
        ("aaaaaaae\u0301bb", ["aaaaaaa", "e\u0301bb"]),
        ("aaaaaaa\U0001f469\u200d\U0001f4bb", ["aaaaaaa", "\U0001f469\u200d\U0001f4bb"]),
    ],
)
def test_long_sentences_are_split_at_the_best_places(text: str, parts: list[str]) -> None:
    assert pieces(text, split_to_fit(text, (0, len(text)), is_short)) == parts


@given(TEXTS.map(str.strip).filter(bool))
def test_parts_fit_and_lose_only_white_space(text: str) -> None:
    spans = split_to_fit(text, (0, len(text)), is_short)
    assert "".join("".join(pieces(text, spans)).split()) == "".join(text.split())
    ends, starts = [end for _, end in spans[:-1]], [start for start, _ in spans[1:]]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))
    for part in pieces(text, spans):
        is_one = all(
            unicodedata.category(c).startswith("M") or "\u200d" in part[i : i + 2]
            for i, c in enumerate(part[1:])
        )
        assert is_short(part) or is_one


def test_a_part_of_a_text_is_split_in_its_place() -> None:
    text = "before one two three after"
    assert pieces(text, split_to_fit(text, (7, 20), is_short)) == ["one two", "three"]
