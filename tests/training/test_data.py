"""Data sets: examples of files, rows that cannot be used, and the held-out split."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseq.runtime import OptionError, PromptError
from edgeseq.training.data import (
    Dataset,
    Pair,
    describe,
    prompt_of,
    read_dataset,
    write_held_out,
)
from edgeseq.training.data.splitting import split, stretches
from edgeseq.training.template import DataSettings
from tests.support.errors import CODE, refusal

PAIRS = [Pair(f"source {i}", f"target {i}") for i in range(100)]
PAIR_SETTINGS = DataSettings(form="pairs")
TEXT_SETTINGS = DataSettings(form="text")
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def jsonl(pairs: Sequence[Pair], *others: object) -> str:
    rows = [{"source": one.source, "target": one.target} for one in pairs]
    return "".join(json.dumps(row) + "\n" for row in [*rows, *others])


def read(settings: DataSettings, *files: Path, held_out: Sequence[Path] = ()) -> Dataset:
    return read_dataset(settings, files, held_out)


def refused(settings: DataSettings, *files: Path, held_out: Sequence[Path] = ()) -> str:
    kinds = (PromptError, OptionError)
    return refusal(kinds, lambda: read(settings, *files, held_out=held_out), ending=CODE)


def words(text: str) -> list[str]:
    return text.split()


# Pairs


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl(PAIRS)),
        ("a.csv", "source,target\n" + "".join(f"{p.source},{p.target}\n" for p in PAIRS)),
        ("a.txt", "".join(f"{p.source}\t{p.target}\n" for p in PAIRS)),
    ],
)
def test_pairs_are_training_or_held_out(name: str, content: str, write: Write) -> None:
    path = write(name, content)
    dataset = read(PAIR_SETTINGS, path)
    assert {*dataset.training} | {*dataset.held_out} == {*PAIRS}
    assert (len(dataset.training), len(dataset.held_out)) == (90, 10)
    assert [one for one in PAIRS if one in {*dataset.training}] == dataset.training
    [facts] = dataset.files
    assert (facts.name, facts.rows, facts.bytes) == (name, 100, len(content.encode()))
    assert facts.sha256 == sha256(content.encode()).hexdigest()
    assert (dataset.held_out_files, dataset.unusable, dataset.left_out) == ([], [], 0)


def test_other_columns(write: Write) -> None:
    rows = "".join(f"{i},question {i},answer\n" for i in range(20))
    path = write("a.csv", "id,question,answer\n" + rows)
    settings = DataSettings(form="pairs", source_column="question", target_column="answer")
    assert Pair("question 3", "answer") in [
        *read(settings, path).training,
        *read(settings, path).held_out,
    ]
    message = refused(PAIR_SETTINGS, path)
    assert "has no column 'source' (it has 'id', 'question', 'answer'): give data.source" in message


def test_other_columns_in_json_lines(write: Write) -> None:
    path = write("a.jsonl", '{"question": "a", "answer": "b"}\n' * 20)
    assert refused(PAIR_SETTINGS, path).endswith(
        "line 1: the row has no 'source' (it has 'question', 'answer')): give data.source_column "
        "and data.target_column the names of two columns."
    )


def test_files_are_read_together(write: Write) -> None:
    first, second = write("a.jsonl", jsonl(PAIRS[:60])), write("b.jsonl", jsonl(PAIRS[60:]))
    dataset = read(PAIR_SETTINGS, first, second)
    assert [one for one in PAIRS if one in {*dataset.training}] == dataset.training
    assert [(facts.name, facts.rows) for facts in dataset.files] == [
        ("a.jsonl", 60),
        ("b.jsonl", 40),
    ]


def test_held_out_files(write: Write) -> None:
    path, other = write("a.jsonl", jsonl(PAIRS[:60])), write("b.jsonl", jsonl(PAIRS[55:70]))
    dataset = read(PAIR_SETTINGS, path, held_out=[other])
    assert dataset.training == PAIRS[:55]
    assert dataset.held_out == PAIRS[55:70]
    assert dataset.left_out == 5
    assert [facts.name for facts in dataset.held_out_files] == ["b.jsonl"]


# The split

SOURCES = st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.text(max_size=2)), min_size=10)


@given(SOURCES, st.integers(0, 5), st.floats(0.01, 0.99), st.integers(1, 20))
def test_no_source_is_on_both_sides(
    rows: list[tuple[str, str]], seed: int, share: float, limit: int
) -> None:
    pairs = [Pair(source, target) for source, target in rows]
    settings = DataSettings(form="pairs", seed=seed, held_out=share, held_out_limit=limit)
    if len({pair.source for pair in pairs}) == 1:
        with pytest.raises(PromptError, match="the same source"):
            split(pairs, settings)
        return
    training, held_out = split(pairs, settings)
    assert training
    assert held_out
    assert sorted(map(repr, [*training, *held_out])) == sorted(map(repr, pairs))
    assert not {pair.source for pair in training} & {pair.source for pair in held_out}


def test_sources_that_differ_in_whitespace_stay_together(write: Write) -> None:
    pairs = [Pair(f"{i}{space}x", "y") for i in range(50) for space in (" ", "  ", "\t")]
    dataset = read(PAIR_SETTINGS, write("a.jsonl", jsonl(pairs)))
    assert len(dataset.held_out) == 15
    assert len({words(one.source)[0] for one in dataset.held_out if isinstance(one, Pair)}) == 5


def test_the_split_depends_on_the_seed_and_not_on_the_order(write: Write) -> None:
    path, turned = write("a.jsonl", jsonl(PAIRS)), write("b.jsonl", jsonl(PAIRS[::-1]))
    first = read(PAIR_SETTINGS, path).held_out
    assert read(PAIR_SETTINGS, path).held_out == first
    assert read(PAIR_SETTINGS, turned).held_out == first
    assert read(DataSettings(form="pairs", seed=1), path).held_out != first


def test_the_split_is_always_the_same(write: Write) -> None:
    """A run that is resumed by another version of Python has the same data."""
    dataset = read(PAIR_SETTINGS, write("a.jsonl", jsonl(PAIRS)))
    found = [words(one.target)[1] for one in dataset.held_out if isinstance(one, Pair)]
    assert found == ["72", "76", "67", "26", "35", "99", "92", "22", "53", "1"]


def test_added_rows_leave_most_of_the_split_as_it_was() -> None:
    many = [Pair(f"{i}", "") for i in range(1000)]
    before = {*split(many[:900], PAIR_SETTINGS)[1]}
    after = {*split(many, PAIR_SETTINGS)[1]}
    assert len(before) == 90
    assert len(before & after) > 75


def test_a_large_share_leaves_an_example_for_training(write: Write) -> None:
    settings = DataSettings(form="pairs", held_out=0.999)
    assert len(read(settings, write("a.jsonl", jsonl(PAIRS))).training) == 1


def test_the_limit_of_held_out_rows(write: Write) -> None:
    settings = DataSettings(form="pairs", held_out=0.5, held_out_limit=7)
    assert len(read(settings, write("a.jsonl", jsonl(PAIRS))).held_out) == 7


# Text


def paragraphs(count: int, length: int = 300) -> list[str]:
    return [(f"p{i} " + "word " * (length // 5)).strip() for i in range(count)]


def test_stretches_of_a_text_are_held_out(write: Write) -> None:
    given_paragraphs = paragraphs(200)
    path = write("a.txt", "\n\n".join(given_paragraphs))
    dataset = read(TEXT_SETTINGS, path)
    found = [
        part for text in [*dataset.training, *dataset.held_out] for part in str(text).split("\n\n")
    ]
    assert sorted(found) == sorted(given_paragraphs)
    share = sum(len(str(text)) for text in dataset.held_out) / len("\n\n".join(given_paragraphs))
    assert 0.07 < share <= 0.1
    assert len(dataset.training) <= len(dataset.held_out) + 1
    assert all(str(text).count("\n\n") >= 1 for text in dataset.held_out)
    assert dataset.files[0].rows == 200


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"line {i} of a text without empty lines" for i in range(300)),
        " ".join(f"word{i}" for i in range(3000)),
        "x" * 20_000,
    ],
    ids=["lines", "one line", "no spaces"],
)
def test_texts_without_paragraphs(text: str, write: Write) -> None:
    dataset = read(TEXT_SETTINGS, write("a.txt", text))
    parts = [str(part) for part in [*dataset.training, *dataset.held_out]]
    assert sorted("".join("".join(parts).split())) == sorted("".join(text.split()))
    assert dataset.held_out


@given(st.text("ab \n", max_size=400), st.integers(1, 40))
def test_stretches_are_the_text(text: str, size: int) -> None:
    parts = stretches(text, size)
    assert "".join(parts) == text
    assert all(size <= len(part) <= 5 * size // 2 for part in parts[:-1])
    assert len(parts[-1]) <= 5 * size // 2


def test_a_stretch_ends_after_empty_lines_if_it_can() -> None:
    assert stretches("aaaa\nb\n\n  c\n\nd" + "e" * 20, 5)[0] == "aaaa\nb\n\n"
    assert stretches("aa aa\nb b b" + "e" * 20, 5)[0] == "aa aa\n"
    assert stretches("aa aaa b" + "e" * 20, 5)[0] == "aa aaa "


def test_many_documents_are_held_out_as_a_whole(write: Write) -> None:
    texts = [f"document {i}\n\nof two paragraphs" for i in range(40)]
    path = write("a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    dataset = read(TEXT_SETTINGS, path)
    assert len(dataset.held_out) == 4
    assert sorted(map(str, [*dataset.training, *dataset.held_out])) == sorted(texts)


def test_documents_of_a_plain_text(write: Write) -> None:
    texts = [f"document {i}\n\nof two paragraphs" for i in range(40)]
    path = write("a.txt", "\n<|end|>\n".join(texts) + "<|end|>\n")
    dataset = read(DataSettings(form="text", document_separator="<|end|>"), path)
    assert sorted(map(str, [*dataset.training, *dataset.held_out])) == sorted(texts)


def test_files_are_documents(write: Write) -> None:
    files = [write(f"{i}.txt", f"story {i}\n") for i in range(30)]
    dataset = read(TEXT_SETTINGS, *files)
    assert (len(dataset.training), len(dataset.held_out)) == (27, 3)


def test_documents_that_are_all_the_same(write: Write) -> None:
    path = write("a.csv", "text\n" + "again and again\n" * 30)
    assert refused(TEXT_SETTINGS, path).startswith("All examples are the same, so that none can ")


def test_documents_of_held_out_files_are_left_out(write: Write) -> None:
    path = write("a.csv", "text\nfirst\nsecond\nthird\n")
    other = write("b.csv", "text\n second\n")
    dataset = read(TEXT_SETTINGS, path, held_out=[other])
    assert (dataset.training, dataset.held_out) == (["first", "third"], [" second"])
    assert dataset.left_out == 1


# Rows that cannot be used


def test_unusable_rows_are_named(write: Write) -> None:
    others: list[object] = [
        {"source": "x", "target": " "},
        {"source": "x"},
        {"source": "x", "target": 3},
        {"source": None, "target": "x"},
        [],
    ]
    path = write("a.jsonl", jsonl(PAIRS, *others))
    dataset = read(DataSettings(form="pairs", max_unusable=0.05), path)
    assert [(row.file, row.line, row.reason) for row in dataset.unusable] == [
        (path, 101, "target is empty"),
        (path, 102, "the row has no 'target' (it has 'source')"),
        (path, 103, "target is a number (3) and not a string"),
        (path, 104, "source is null and not a string"),
        (path, 105, "the line is not a JSON object but a list"),
    ]
    assert len(dataset.training) + len(dataset.held_out) == 100


def test_too_many_unusable_rows_stop_the_run(write: Write) -> None:
    path = write("a.jsonl", jsonl(PAIRS, {"source": "x", "target": 3}, {"source": "x"}))
    assert refused(PAIR_SETTINGS, path) == (
        "2 of 102 rows cannot be used, more than the share of 0.01 that data.max_unusable allows "
        f"({path}, line 101: target is a number (3) and not a string): correct the rows, or raise "
        "data.max_unusable."
    )
    assert len(read(DataSettings(form="pairs", max_unusable=0.02), path).unusable) == 2


@pytest.mark.parametrize("form", ["text", "pairs"])
def test_a_text_in_another_encoding(form: Any, write: Write) -> None:
    path = write("a.txt", ("Größe\tä\n" * 100).encode("latin-1"))
    message = refused(DataSettings(form=form), path)
    assert message.startswith("100 of 100 rows cannot be used, ")
    assert f"({path}, line 1: the line is not valid UTF-8 at byte 3): save the file as " in message


def test_lines_of_a_text_that_are_not_utf8_are_left_out(write: Write) -> None:
    lines = [f"line {i} of a text that is long enough".encode() for i in range(500)]
    path = write("a.txt", b"\n".join([*lines, b"\xff"]))
    dataset = read(TEXT_SETTINGS, path)
    assert [str(row) for row in dataset.unusable] == [
        f"{path}, line 501: the line is not valid UTF-8 at byte 1"
    ]


# Data that is refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "source,target\n", " has no rows: give a file with some."),
        ("a.jsonl", "", " has no rows: "),
        ("a.csv", "source,target\na,b", "There is only 1 usable pair, of which none can be held"),
        ("a.csv", "source,target\n" + "a,b\nc,d\n" * 4, "There are only 8 usable pairs, of which "),
        ("a.csv", "source,target\n" + "a,\n" * 50, "50 of 50 rows cannot be used, "),
        ("a.csv", "source,target\n" + "a,b\n" * 50, "All examples have the same source, so that "),
        ("a.txt", "no tabs in this line\n" * 50, "50 of 50 rows cannot be used, "),
    ],
)
def test_pairs_that_cannot_be_used(name: str, content: str, message: str, write: Write) -> None:
    path = write(name, content)
    assert refused(PAIR_SETTINGS, path).removeprefix(str(path)).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", " has no text: give a file with some."),
        ("\n \n", " has no text: "),
        (
            "One line.",
            "The text has 9 characters, of which no part can be held out: give at least ",
        ),
    ],
)
def test_texts_that_cannot_be_used(content: str, message: str, write: Write) -> None:
    path = write("a.txt", content)
    assert refused(TEXT_SETTINGS, path).removeprefix(str(path)).startswith(message)


def test_labels(write: Write) -> None:
    settings = DataSettings(form="pairs", labels=True)
    pairs = [Pair(one.source, "good" if i % 2 else "bad") for i, one in enumerate(PAIRS)]
    assert len(read(settings, write("a.jsonl", jsonl(pairs))).training) == 90
    same = write("b.jsonl", jsonl([Pair(one.source, "good") for one in PAIRS]))
    assert refused(settings, same).startswith("All targets are the same label: ")
    numbers = write(
        "c.jsonl", "".join(json.dumps({"source": "x", "target": 1}) + "\n" for _ in "ab")
    )
    assert "target is a number (1) and not a string" in refused(settings, numbers)


def test_files_that_are_given_twice(write: Write) -> None:
    path = write("a.jsonl", jsonl(PAIRS))
    again = path.parent / "." / path.name
    assert refused(PAIR_SETTINGS, path, again).endswith("is given twice: give it once.")
    assert "is given twice" in refused(PAIR_SETTINGS, path, held_out=[path])


def test_held_out_files_that_hold_everything(write: Write) -> None:
    path, copy = write("a.jsonl", jsonl(PAIRS)), write("b.jsonl", jsonl(PAIRS))
    assert refused(PAIR_SETTINGS, path, held_out=[copy]).startswith("All 100 training examples ")


def test_files_that_are_missing(tmp_path: Path) -> None:
    assert refused(PAIR_SETTINGS, tmp_path / "none.csv").startswith("There is no file ")
    assert refused(PAIR_SETTINGS, tmp_path).startswith(f"{tmp_path} is a folder: ")
    assert refused(PAIR_SETTINGS).startswith("There are no files of data: ")


# What is said and written


def test_describe(write: Write) -> None:
    path = write("a.jsonl", jsonl(PAIRS, *[{"source": f"x{i}"} for i in range(22)]))
    other = write("b.jsonl", jsonl(PAIRS[:3]))
    dataset = read(DataSettings(form="pairs", max_unusable=1), path, held_out=[other])
    lines = describe(dataset)
    assert lines[0] == "data: 97 pairs for training, 3 held out"
    assert lines[1] == "3 training pairs are left out: the held-out files have them"
    assert lines[2] == "22 rows cannot be used:"
    assert lines[3] == f"  {path}, line 101: the row has no 'target' (it has 'source')"
    assert lines[23:] == ["  and 2 more"]


def test_held_out_pairs_are_written_as_the_model_reads_them(write: Write, tmp_path: Path) -> None:
    settings = DataSettings(form="pairs", source_prefix="ask: ", separator="\n->")
    dataset = read(settings, write("a.jsonl", jsonl([*PAIRS[:50], Pair("ä\nb", "c")])))
    out = tmp_path / "held_out.jsonl"
    for is_decoder_only, end in ((True, "\n->"), (False, "")):

        def prompt(source: str, decoder_only: bool = is_decoder_only) -> str:
            return prompt_of(settings, source, is_decoder_only=decoder_only)

        write_held_out(dataset, out, prompt)
        found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert found == [
            {"source": f"ask: {one.source}{end}", "target": one.target}
            for one in dataset.held_out
            if isinstance(one, Pair)
        ]


def test_held_out_text_is_written(write: Write, tmp_path: Path) -> None:
    path = write("a.csv", "text\n" + "".join(f"Größe {i}\n" for i in range(30)))
    dataset = read(TEXT_SETTINGS, path)
    write_held_out(dataset, tmp_path / "held_out.txt")
    text = (tmp_path / "held_out.txt").read_text(encoding="utf-8")
    assert text == "\n\n".join(map(str, dataset.held_out)) + "\n"
