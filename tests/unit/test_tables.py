"""Rows of files: formats, values, lines that cannot be read, and files that are refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseq.runtime import EdgeseqError, MissingPackageError, OptionError, PromptError
from edgeseq.runtime.tables import lines as lines_module
from edgeseq.runtime.tables.row import Row, RowError
from edgeseq.runtime.tables.table import FORMATS, format_of, open_table
from tests.support.errors import CODE, assert_one_sentence, refusal

Write = Callable[..., Path]
PAIR = {"source": "a", "target": "b"}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows(path: Path, **options: Any) -> list[Row]:
    with open_table(path, **options) as table:
        return list(table)


def values(path: Path, **options: Any) -> list[dict[str, Any]]:
    found = rows(path, **options)
    assert [row.fault for row in found] == [""] * len(found)
    return [dict(row.values) for row in found]


def faults(path: Path, **options: Any) -> dict[int, str]:
    return {row.line: row.fault for row in rows(path, **options) if row.fault}


def refused(path: Path, **options: Any) -> str:
    """Return the error for a file, which may come as late as the rows."""
    return refusal(PromptError, lambda: rows(path, **options), ending=CODE)


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
    return path


# Formats


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.csv", "csv"),
        ("a.CSV", "csv"),
        ("a.b.tsv.gz", "tsv"),
        ("a.parquet", "parquet"),
        ("a.txt", "text"),
        ("a.txt.gz", "text"),
        ("a", "text"),
        ("a.gz", "text"),
    ],
)
def test_the_suffix_gives_the_format(name: str, format: str) -> None:
    assert format_of(Path("jsonl.csv") / name) == format


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.xlsx"])
def test_formats_that_are_not_read(name: str) -> None:
    message = refusal(PromptError, lambda: format_of(Path(name)))
    assert " files are not read, give " in message


SAME_ROWS = {
    "a.jsonl": '{"source": "a", "target": "b"}\n{"source": "Größe, 1", "target": "c"}\n',
    "a.csv": 'source,target\na,b\n"Größe, 1",c\n',
    "semicolons.csv": "source;target\na;b\nGröße, 1;c\n",
    "a.tsv": "source\ttarget\na\tb\nGröße, 1\tc\n",
    "a.txt": "a\tb\nGröße, 1\tc\n",
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "mark"])
@pytest.mark.parametrize("last", [True, False], ids=["last line ends", "last line does not end"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", SAME_ROWS)
def test_all_formats_have_the_same_rows(
    name: str, packed: bool, last: bool, mark: str, ending: str, write: Write
) -> None:
    text = mark + SAME_ROWS[name].replace("\n", ending)
    content = (text if last else text.removesuffix(ending)).encode()
    path = write(f"{name}.gz", gzip.compress(content)) if packed else write(name, content)
    columns = ["source", "target"]
    assert values(path, columns=columns) == [PAIR, {"source": "Größe, 1", "target": "c"}]


def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"source": ["a"], "n": [1], "target": ["b"]})
    assert values(path, columns=["source", "target"]) == [PAIR]
    assert values(path) == [{"source": "a", "n": 1, "target": "b"}]
    with open_table(path) as table:
        assert table.columns == ["source", "n", "target"]


def test_the_format_can_be_given(write: Write) -> None:
    path = write("a.txt", "source,target\na,b\n")
    assert values(path, format="csv") == [PAIR]
    assert values(path) == [{"text": "source,target"}, {"text": "a,b"}]
    with pytest.raises(OptionError, match=f"must be one of {', '.join(FORMATS)}"):
        open_table(path, format="xml")


def test_lines_of_a_plain_text(write: Write) -> None:
    assert values(write("a.txt", "a\tb\n\n c")) == [{"text": "a\tb"}, {"text": ""}, {"text": " c"}]
    assert values(write("empty.txt", "")) == []


# Delimited values


def test_values_in_quotes(write: Write) -> None:
    path = write("a.csv", 'a,b\n"x ""y"", z","1\n\n2"\n5" disk,""\n,\n"",""\n')
    assert [(row.line, *row.values.values()) for row in rows(path)] == [
        (2, 'x "y", z', "1\n\n2"),
        (5, '5" disk', ""),
        (6, "", ""),
        (7, "", ""),
    ]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=6)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(TEXTS, min_size=n, max_size=n))))
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]]
) -> None:
    out = io.StringIO()
    header = [f"c{i}" for i in range(len(table[0]) if table else 1)]
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([header, *table])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    assert [list(row.values()) for row in values(path)] == table


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("x", "the row has 1 value for 2 columns"),
        ("x,y,z", "the row has 3 values for 2 columns"),
        ('x,"y', "value 2 has no closing quote"),
        ('"x" y,z', "value 1 has text after its closing quote"),
        (b"\xffx,y", "the line is not valid UTF-8 at byte 1"),
        (b'"x\n\xff",y', "line 4 of the row: the line is not valid UTF-8 at byte 1"),
    ],
)
def test_a_row_that_cannot_be_read_takes_no_others_with_it(
    row: str | bytes, fault: str, write: Write
) -> None:
    content = row.encode() if isinstance(row, str) else row
    path = write("a.csv", b"source,target\na,b\n" + content + b"\na,b\na,b\n")
    found = rows(path)
    assert (found[1].line, found[1].fault) == (3, fault)
    assert [dict(one.values) for one in found if not one.fault] == [PAIR] * 3


@given(st.binary(max_size=80) | st.text('",\n\ra\t', max_size=80).map(str.encode))
@pytest.mark.parametrize("format", ["text", "jsonl", "csv", "tsv"])
def test_any_bytes_are_rows_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, format: str, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    try:
        found = rows(path, format=format)
    except PromptError as error:
        assert_one_sentence(str(error), ending=CODE)
        return
    numbers = [row.line for row in found]
    assert numbers == sorted(set(numbers))
    assert all(1 <= number <= content.count(b"\n") + 1 for number in numbers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", " is empty: its first line must name the columns."),
        ("\n\n", " is empty: "),
        ("source,text\na,b\n", " has no column 'target' (it has 'source', 'text'): rename a "),
        ("source,target,target\n", " has several columns 'target': give each its own name."),
        ("other,x,source,target,x\n", " has several columns 'x': "),
        ('source,"target\n', ", line 1: value 2 has no closing quote; this line must name the "),
        (b"source,t\xe4rget\n", ", line 1: the line is not valid UTF-8 at byte 9; this line must "),
    ],
)
def test_a_header_that_cannot_be_used(content: str | bytes, message: str, write: Write) -> None:
    path = write("a.csv", content)
    assert refused(path, columns=["source", "target"]).startswith(f"{path}{message}")


def test_columns_without_a_name_are_ignored(write: Write) -> None:
    path = write("a.csv", "source,target,,\na,b,,\n")
    assert [(row["source"], row["target"]) for row in values(path)] == [("a", "b")]


def test_the_advice_of_the_caller(write: Write) -> None:
    path = write("a.csv", "a,b\n")
    message = refused(path, columns=["c"], advice="give --column")
    assert message.endswith("has no column 'c' (it has 'a', 'b'): give --column.")


# Other rows that cannot be read


def test_lines_that_are_no_objects(write: Write) -> None:
    path = write("a.jsonl", b'{"a": 1}\n\n[1]\n"x"\n{"a"\n1\n\xff\n  \n{"a": 2}')
    assert [row.values for row in rows(path) if not row.fault] == [{"a": 1}, {"a": 2}]
    found = faults(path)
    assert found.pop(5).startswith("the line is not valid JSON (Expecting ':' delimiter")
    assert found == {
        3: "the line is not a JSON object but a list",
        4: "the line is not a JSON object but a string",
        6: "the line is not a JSON object but a number",
        7: "the line is not valid UTF-8 at byte 1",
    }


def test_json_that_nests_too_deeply(write: Write) -> None:
    assert list(faults(write("a.jsonl", '{"a":' + "[" * 200_000 + "\n" + '{"a": 1}\n'))) == [1]


def test_lines_without_their_tabs(write: Write) -> None:
    path = write("a.txt", "a\tb\na\na\tb\tc\n")
    assert faults(path, columns=["source", "target"]) == {
        2: "the line has 0 tabs and not 1 (between source and target)",
        3: "the line has 2 tabs and not 1 (between source and target)",
    }


def test_a_line_that_is_too_long(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "LONGEST_LINE", 1 << 20)
    path = write("a.txt", b"a\n" + b"x" * (3 << 20) + b"\nb\n")
    assert faults(path) == {2: "the line is longer than 1 MB"}
    assert [row.values["text"] for row in rows(path) if not row.fault] == ["a", "b"]


def test_parquet_with_a_string_that_is_not_utf8(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    bad = pyarrow.array([b"a", b"\xff", b"c"]).cast(pyarrow.binary()).view(pyarrow.string())
    path = parquet(tmp_path / "a.parquet", {"text": bad})
    assert faults(path) == {2: "a value is not valid UTF-8"}


# Values


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "label is null and not a string"),
        (3, "label is a number (3) and not a string"),
        (0.5, "label is a number (0.5) and not a string"),
        (True, "label is a truth value (true) and not a string"),
        (["a"], 'label is a list (["a"]) and not a string'),
        ({"a": None}, 'label is an object ({"a": null}) and not a string'),
        ("\ud800", "label has a lone surrogate, which is not a character"),
        (b"a", "label is a value of type bytes (b'a') and not a string"),
    ],
)
def test_values_that_are_no_strings(value: object, fault: str) -> None:
    with pytest.raises(RowError) as caught:
        Row(1, {"label": value}).text("label")
    assert str(caught.value) == fault


def test_a_value_that_is_missing(write: Write) -> None:
    [row] = rows(write("a.jsonl", '{"question": "a", "answer": ""}'))
    assert (row.text("question"), row.text("answer")) == ("a", "")
    with pytest.raises(RowError) as caught:
        row.text("source")
    assert str(caught.value) == "the row has no 'source' (it has 'question', 'answer')"
    with pytest.raises(RowError, match="torn"):
        Row(1, {}, "torn").text("source")


def test_values_of_parquet_keep_their_types(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"a": ["x", None], "b": [[1], []], "c": [1.5, 2.0]})
    assert values(path) == [{"a": "x", "b": [1], "c": 1.5}, {"a": None, "b": [], "c": 2.0}]


# Files that are refused


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_missing_or_a_folder(format: str, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert refused(missing, format=format).startswith(f"There is no file {missing}: ")
    assert refused(tmp_path, format=format).startswith(f"{tmp_path} is a folder: ")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_other_encodings(encoding: str, write: Write) -> None:
    message = refused(write("a.csv", "source,target\na,b\n".encode(encoding)))
    assert message.endswith((": save the file as UTF-8.", ": save it as a text file."))


@pytest.mark.parametrize("cut", [1, 9, 30, -4])
def test_a_gzip_file_that_is_damaged(cut: int, write: Write) -> None:
    content = gzip.compress(json.dumps(PAIR).encode() * 1000)
    path = write("a.jsonl.gz", content[:cut])
    assert "is a damaged or incomplete gzip file" in refused(path) or cut == 1


def test_a_gzip_file_is_known_by_its_content(write: Write) -> None:
    assert values(write("a.txt", gzip.compress(b"a"))) == [{"text": "a"}]
    assert " is not a gzip file: " in refused(write("b.txt.gz", "a"))


def test_a_parquet_file_that_is_damaged(write: Write) -> None:
    pytest.importorskip("pyarrow")
    assert " cannot be read as a Parquet file (" in refused(write("a.parquet", "source,target\n"))


def test_without_pyarrow(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = write("a.parquet", "PAR1")
    message = refusal(MissingPackageError, lambda: open_table(path), ending=CODE)
    assert "install the extra 'parquet'" in message
    assert isinstance(MissingPackageError(), EdgeseqError)


# Streams


def test_rows_are_read_one_after_another(write: Write) -> None:
    """The damage at the end of the file is met only there."""
    content = gzip.compress(b"source,target\n" + b"a,b\n" * 100_000)
    path = write("a.csv.gz", content[:-200])
    with open_table(path) as table:
        assert [row.values for row in islice(table, 10)] == [PAIR] * 10
