"""Tables in, tables out: columns, formats, interruptions, errors and outputs that are there."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from edgeseq.batch import answering, files
from edgeseq.cli.command_line import main
from edgeseq.runtime import Model
from edgeseq.runtime.tables.table import open_table
from tests.support.commands import Captured, failure, process

WORDS = ["fox", "algorithm", "a", 'the "best", king', "house\nhome", "Größe\r\nx", "night", "so"]
ROWS = [{"id": f"x{i % 5}", "text": word, "label": str(i)} for i, word in enumerate(WORDS)]
INPUTS = ("in.jsonl", "in.csv", "in.tsv", "in.parquet", "in.jsonl.gz", "in.csv.gz")
OUTPUTS = ("out.jsonl", "out.csv", "out.tsv", "out.parquet", "out.jsonl.gz", "out.csv.gz")
TEMPLATE = """\
fields = ["text", "tone"]
defaults = { tone = "calm" }
["encoder-decoder"]
prompt = "pronounce: {text}"
["decoder-only"]
prompt = "{text} is {tone}"
labels = { good = " good", bad = " bad" }
"""
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the task on an input in the folder of the test, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "say.toml").write_text(TEMPLATE, encoding="utf-8")
    monkeypatch.setattr(files, "WINDOW", 3)

    def run(source: str, out: str, *more: str, demo: str = "t5") -> int:
        return main(["run", "say.toml", "--demo", demo, "--input", source, "--output", out, *more])

    return run


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    path = Path(name)
    if "parquet" in name:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if "jsonl" in name:
        content = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        file = io.StringIO()
        table = csv.DictWriter(file, rows[0], delimiter="\t" if "tsv" in name else ",")
        table.writeheader()
        table.writerows(rows)
        content = file.getvalue()
    data = content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read(name: str) -> list[dict[str, Any]]:
    with open_table(Path(name)) as table:
        rows = list(table)
    assert [row.fault for row in rows] == [""] * len(rows)
    return [dict(row.values) for row in rows]


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text("utf-8").split("\n")[:-1]]


@pytest.fixture
def answers(demo_t5: Model) -> list[str]:
    found = demo_t5.generate([f"pronounce: {word}" for word in WORDS])
    return [one.text.strip() for one in found]


@pytest.mark.parametrize("source", INPUTS)
@pytest.mark.parametrize("out", OUTPUTS)
def test_columns_pass_through_in_every_format(
    source: str, out: str, run: Run, answers: list[str]
) -> None:
    write(source, ROWS)
    assert run(source, out) == 0
    found = read(out)
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    assert [row["label"] for row in found] == [row["label"] for row in ROWS]
    texts = [row["input"]["text"] if "jsonl" in out else row["text"] for row in found]
    assert texts == WORDS
    assert [row["output"] for row in found] == answers
    assert {row["task"] for row in found} == {"say"}
    assert len({row["run"] for row in found}) == 1
    if "jsonl" not in out:
        columns = ["line", "task", "run", "id", "text", "label", "output", "error"]
        if "jsonl" in source:  # columns besides the fields come first
            columns = ["line", "task", "run", "id", "label", "text", "output", "error"]
        assert list(found[0]) == columns
        assert not any(row["error"] for row in found)
    assert {path.name for path in Path().iterdir()} == {"say.toml", source, out}


@pytest.mark.parametrize("out", OUTPUTS)
def test_an_interrupted_run_ends_with_the_same_bytes(
    out: str, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    write("in.csv", ROWS)
    assert run("in.csv", f"whole_{out}") == 0
    run_all = answering.run_all
    for kept in (0, 1, 2):
        calls: list[Any] = []

        def interrupted(*arguments: Any) -> Any:
            calls.append(arguments)  # noqa: B023
            if len(calls) == kept + 2:  # noqa: B023
                raise KeyboardInterrupt
            return run_all(*arguments)

        monkeypatch.setattr(answering, "run_all", interrupted)
        capsys.readouterr()
        assert run("in.csv", out) == 130
        monkeypatch.setattr(answering, "run_all", run_all)
        work = Path(out if out == "out.jsonl" else f"{out}.part")
        if kept:
            assert f"{work} has {kept * 3} answers: " in capsys.readouterr().err
            assert work.read_bytes().count(b"\n") == kept * 3
            work.write_bytes(work.read_bytes()[:-5])  # as if killed while it wrote a line
        assert run("in.csv", out) == 0
        there = f", {kept * 3 - 1} of them from an earlier run" if kept else ""
        assert capsys.readouterr().err.endswith(f"{out} has 8 answers{there}\n")
        assert Path(out).read_bytes() == Path(f"whole_{out}").read_bytes()
        Path(out).unlink()
        assert not Path(f"{out}.part").exists()


@pytest.mark.parametrize("out", OUTPUTS[1:])
def test_a_run_killed_at_its_end_is_continued(out: str, run: Run) -> None:
    write("in.csv", ROWS)
    assert run("in.csv", "answers.jsonl") == 0
    assert run("in.csv", out) == 0
    whole = Path(out).read_bytes()
    for is_there in (True, False):  # killed after the output was replaced, or before
        if not is_there:
            Path(out).unlink()
        Path(f"{out}.part").write_bytes(Path("answers.jsonl").read_bytes())
        Path(f"{out}.new").write_bytes(whole[:100])
        Path(f".{out}.lock").touch()
        assert run("in.csv", out) == 0
        assert Path(out).read_bytes() == whole
    names = {path.name for path in Path().iterdir()}
    assert names == {"say.toml", "in.csv", "answers.jsonl", out}


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("source", ["in.csv", "in.parquet", "in.jsonl"])
def test_a_finished_output_is_continued(source: str, out: str, run: Run, capsys: Captured) -> None:
    write(source, ROWS[:6])
    assert run(source, out) == 0
    before = Path(out).read_bytes()
    capsys.readouterr()
    assert run(source, out) == 0
    assert capsys.readouterr().err == f"{out} has 6 answers, 6 of them from an earlier run\n"
    assert Path(out).read_bytes() == before
    write(source, ROWS)
    assert run(source, out) == 0
    assert capsys.readouterr().err == f"{out} has 8 answers, 6 of them from an earlier run\n"
    grown = Path(out).read_bytes()
    Path(out).unlink()
    assert run(source, out) == 0
    assert Path(out).read_bytes() == grown
    for rows in (ROWS[:7], [*ROWS[:3], {**ROWS[3], "label": "?"}, *ROWS[4:]]):
        write(source, rows)
        capsys.readouterr()
        assert run(source, out) == 1
        message = f"is not the answer to line {8 if rows == ROWS[:7] else 4} of the input"
        assert message in capsys.readouterr().err
        assert Path(out).read_bytes() == grown
    assert run(source, out, "--max-new-tokens", "2") == 1
    assert run(source, out, "--max-new-tokens", "2", "--overwrite") == 0
    assert Path(out).read_bytes() != grown


BROKEN = b"""\
{"id": 1, "text": "fox"}
{"id": 2, "text": null}
{"id": 3, "text": 7, "more": [1, {"a": null}]}
{"id": 4}
{"id": 5, "text": "\xff"}
not JSON

{"id": 6, "text": "\\ud800"}
{"id": 6, "text": "house"}
{"id": 6, "text": "king", "output": "old", "error": "old"}
"""


@pytest.mark.parametrize("out", OUTPUTS)
def test_broken_rows_have_an_error_and_can_be_retried(out: str, run: Run, capsys: Captured) -> None:
    Path("in.jsonl").write_bytes(BROKEN)
    for there in ("", ", 9 of them from an earlier run"):
        capsys.readouterr()
        assert run("in.jsonl", out) == 1
        assert capsys.readouterr().err == f"{out} has 9 answers{there}, 6 with an error\n"
    found = read(out)
    assert [row["line"] for row in found] == (
        [1, 2, 3, 4, 5, 6, 8, 9, 10]
        if out[4] in "jp"
        else ["1", "2", "3", "4", "5", "6", "8", "9", "10"]
    )
    errors = [row.get("error") or "" for row in found]
    starts = [
        "",
        "text is None",
        "text is 7",
        "text is missing",
        "Line 5: ",
        "Line 6: ",
        "text has",
    ]
    for error, start in zip(errors, [*starts, "", ""], strict=True):
        assert error.startswith(start) if start else not error
    assert found[-1]["input_output"] == found[-1]["input_error"] == "old"
    good = [row.get("output") for row in found if not row.get("error")]
    assert run("in.jsonl", out, "--retry-errors") == 1  # the same errors again
    assert read(out) == found
    corrected = BROKEN.replace(b"null}\n", b'"queen"}\n', 1).replace(b"\\ud800", b"night")
    corrected = corrected.replace(b"\xff", b"so").replace(b"not JSON", b'{"text": "key"}')
    Path("in.jsonl").write_bytes(corrected)
    capsys.readouterr()
    assert run("in.jsonl", out) == 1
    assert "line 2, is not the answer to line 2" in capsys.readouterr().err
    assert read(out) == found
    assert run("in.jsonl", out, "--retry-errors") == 1
    assert capsys.readouterr().err == (
        f"{out} has 9 answers, 3 of them from an earlier run, 2 with an error\n"
    )
    retried = Path(out).read_bytes()
    found = read(out)
    assert [row["line"] for row in found if row.get("error")] in ([3, 4], ["3", "4"])
    assert [found[i]["output"] for i in (0, 7, 8)] == good
    Path(out).unlink()
    assert run("in.jsonl", out) == 1
    assert Path(out).read_bytes() == retried


@pytest.mark.parametrize("out", ["out.jsonl", "out.csv"])
def test_an_interrupted_retry_is_continued(
    out: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": i, "text": None} for i in range(7)]
    write("in.jsonl", [*rows, {"id": 7, "text": "fox"}])
    assert run("in.jsonl", out) == 1
    before = Path(out).read_bytes()
    write("in.jsonl", [{"id": i, "text": "fox"} for i in range(8)])
    run_all, calls = answering.run_all, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_all(*arguments)

    monkeypatch.setattr(answering, "run_all", interrupted)
    assert run("in.jsonl", out, "--retry-errors") == 130
    assert Path(out).read_bytes() == before
    monkeypatch.setattr(answering, "run_all", run_all)
    assert run("in.jsonl", out, "--retry-errors") == 0
    assert [row["id"] for row in read(out)] in (list(range(8)), list("01234567"))
    assert len({row["output"] for row in read(out)}) == 1


@pytest.mark.parametrize(
    ("name", "content", "errors"),
    [
        ("in.txt", b"fox\n\xff\nking", {2: "Line 2: the line is not valid UTF-8 at byte 1."}),
        (
            "in.csv",
            b'id,text\n1,fox\n2\n3,"x\n4,a\xff\n5,king\n',
            {
                3: "Line 3: the row has 1 value for 2 columns.",
                4: "Line 4: line 5 of the row: the line is not valid UTF-8 at byte 4.",
                5: "Line 5: the line is not valid UTF-8 at byte 4.",
            },
        ),
    ],
)
@pytest.mark.parametrize("out", ["out.jsonl", "out.csv"])
def test_lines_that_cannot_be_read_have_an_error(
    out: str, name: str, content: bytes, errors: dict[int, str], run: Run
) -> None:
    Path(name).write_bytes(content)
    for _ in range(2):
        assert run(name, out) == 1
    found = read(out)
    assert {int(row["line"]): row["error"] for row in found if row.get("error")} == errors
    good = [row["output"] for row in found if not row.get("error")]
    assert good == ["F AA1 K S", "K IH1 NG"]


@pytest.mark.parametrize("size", [1, 60, 150, 190])
def test_an_error_that_was_cut_off_is_retried(size: int, run: Run) -> None:
    Path("in.jsonl").write_text('{"text": "fox"}\n{"id": 1, "text": null}\n', encoding="utf-8")
    assert run("in.jsonl", "out.jsonl") == 1
    first, second = Path("out.jsonl").read_bytes().splitlines(keepends=True)
    Path("out.jsonl").write_bytes(first + second[:size])
    Path("in.jsonl").write_text('{"text": "fox"}\n{"id": 1, "text": "king"}\n', encoding="utf-8")
    assert run("in.jsonl", "out.jsonl", "--retry-errors") == 0
    assert [row["output"] for row in lines("out.jsonl")] == ["F AA1 K S", "K IH1 NG"]


def test_columns_of_the_output_are_never_lost(run: Run, capsys: Captured) -> None:
    row = {"text": "fox", "output": "a", "input_output": "b", "task": "c", "line": "d"}
    write("in.csv", [row])
    assert run("in.csv", "out.csv") == 0
    [found] = read("out.csv")
    renamed = {"input_input_output": "a", "input_output": "b", "input_task": "c", "input_line": "d"}
    assert found.items() >= renamed.items()
    assert run("in.csv", "out.jsonl") == 0
    [found] = read("out.jsonl")
    assert found.items() >= renamed.items()
    assert run("in.csv", "named.csv", "--output-column", "sounds") == 0
    [found] = read("named.csv")
    assert found.items() >= {"output": "a", "input_output": "b", "sounds": "F AA1 K S"}.items()
    assert run("in.csv", "named.jsonl", "--output-column", "sounds") == 0
    assert run("in.csv", "named.jsonl") == 1
    capsys.readouterr()
    assert run("in.csv", "none.csv", "--output-column", "error") == 1
    assert "it must be a name other than line, task" in capsys.readouterr().err
    assert not Path("none.csv").exists()


def test_the_text_may_be_any_column(run: Run, capsys: Captured) -> None:
    write("in.csv", [{"text": "no", "tone": "wild", "output": "fox"}])
    assert run("in.csv", "out.jsonl", "--text-column", "output", "--field", "tone=mild") == 0
    [found] = lines("out.jsonl")
    assert found["input"] == {"tone": "wild", "text": "fox"}
    assert found["text"] == "no"
    assert run("in.csv", "out.csv", "--text-column", "output") == 0
    [row] = read("out.csv")
    assert (row["input_output"], row["text"], row["output"]) == ("fox", "no", "F AA1 K S")
    write("body.csv", [{"id": "1", "body": "fox"}])
    assert run("body.csv", "body.tsv", "--text-column", "body", "--field", "tone=mild") == 0
    assert list(read("body.tsv")[0])[3:] == ["id", "body", "tone", "output", "error"]
    capsys.readouterr()
    for source in ("body.csv", "body.jsonl"):
        write(source, [{"id": "1", "body": "fox"}])
        assert run(source, "none.csv") == 1
        assert capsys.readouterr().err == (
            f"edgeseq: {source} has no column 'text' (it has 'id', 'body'): name the column with "
            "--text-column.\n"
        )
    assert not Path("none.csv").exists()
    Path("in.txt").write_text("fox\n", encoding="utf-8")
    assert run("in.txt", "none.csv", "--text-column", "body") == 1
    assert run("in.txt", "text.csv") == 0
    assert list(read("text.csv")[0])[3:] == ["text", "output", "error"]


def test_a_field_that_no_column_has(run: Run, capsys: Captured) -> None:
    Path("two.toml").write_text(TEMPLATE.replace("defaults", "# "), encoding="utf-8")
    write("in.csv", [{"text": "fox"}])
    command = ["run", "two.toml", "--demo", "t5", "--input", "in.csv", "--output", "out.csv"]
    message = failure(capsys, *command)
    assert message.endswith("no column 'tone' (it has 'text'): add it, or give --field tone=TEXT.")
    assert main([*command, "--field", "tone=mild"]) == 0


@pytest.mark.parametrize("out", OUTPUTS)
def test_probabilities_are_a_column(out: str, run: Run) -> None:
    write("in.csv", [{"text": "The fox", "tone": "calm"}, {"text": "The king", "tone": "wild"}])
    for _ in range(2):  # the second time from the finished output
        assert run("in.csv", out, demo="gpt2") == 0
    for row in read(out):
        found = row["probabilities"]
        shares = dict(json.loads(found) if isinstance(found, str) else found)
        assert set(shares) == {"good", "bad"}
        assert sum(shares.values()) == pytest.approx(1)
        assert row["output"] == next(iter(shares))


def test_parquet_keeps_the_types_of_its_columns(run: Run) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "n": pyarrow.array([1, None], pyarrow.int16()),
        "day": [date(2024, 1, 2), None],
        "error": [b"\xff", b""],
        "text": ["fox", None],
        "list": [["a", None], []],
        "x": pyarrow.array([float("nan"), 0.5], pyarrow.float32()),
    }
    table = pyarrow.table(columns)
    parquet.write_table(table, "in.parquet")
    for _ in range(2):
        assert run("in.parquet", "out.parquet") == 1
    found = parquet.read_table("out.parquet")
    names = [f"input_{name}" if name == "error" else name for name in table.column_names]
    assert found.column_names == ["line", "task", "run", *names, "output", "error"]
    for old, new in zip(table.column_names, names, strict=True):
        assert found.column(new).type == table.column(old).type
        if old != "x":
            assert found.column(new).to_pylist() == table.column(old).to_pylist()
    for _ in range(2):
        assert run("in.parquet", "out.jsonl") == 1
    assert [row["day"] for row in lines("out.jsonl")] == ["2024-01-02", None]
    assert [row["x"] for row in lines("out.jsonl")] == [None, 0.5]


def test_parquet_from_json_has_types(run: Run) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows: list[dict[str, Any]] = [
        {"text": "fox", "n": 1, "x": 0.5, "b": True, "mixed": 1, "list": [1, "a"], "big": 2**70},
        {"text": "king", "n": None, "x": None, "mixed": "a", "list": None, "late": "yes"},
        {"text": "key", "n": 3, "x": 2.0, "b": False, "mixed": 0.5, "none": None},
    ]
    write("in.jsonl", rows)
    for _ in range(2):
        assert run("in.jsonl", "out.parquet") == 0
    found = pyarrow.parquet.read_table("out.parquet").to_pydict()
    assert found["n"] == [1, None, 3]
    assert found["x"] == [0.5, None, 2.0]
    assert found["b"] == [True, None, False]
    assert found["mixed"] == ["1", "a", "0.5"]
    assert found["list"] == ['[1, "a"]', None, None]
    assert found["late"] == [None, "yes", None]
    assert found["big"] == [str(2**70), None, None]


def test_formats_may_be_given(run: Run, capsys: Captured) -> None:
    write("in.csv", ROWS[:2])
    Path("in.csv").rename("table")
    assert run("table", "out.txt", "--input-format", "csv", "--output-format", "tsv") == 0
    Path("out.txt").rename("out.tsv")
    assert [row["id"] for row in read("out.tsv")] == ["x0", "x1"]
    assert run("table", "out.unknown", "--input-format", "csv") == 0
    assert len(lines("out.unknown")) == 2
    capsys.readouterr()
    assert run("table", "out.parquet.gz", "--input-format", "csv") == 1
    assert "compressed already" in capsys.readouterr().err


def test_standard_output_is_the_default(run: Run) -> None:
    write("in.csv", ROWS)
    command = ["run", "say.toml", "--demo", "t5", "--input"]
    done = process(*command, "in.csv")
    assert done.returncode == 0
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == list("01234567")
    piped = process(*command, "-", "--input-format", "csv", input=Path("in.csv").read_bytes())
    assert piped.stdout == done.stdout
    to_file = ("--input-format", "csv", "--output", "out.parquet")
    assert process(*command, "-", *to_file, input=Path("in.csv").read_bytes()).returncode == 0
    assert [row["label"] for row in read("out.parquet")] == list("01234567")
    message = process(*command, "-", "--input-format", "parquet", input=b"").stderr
    assert message == b"edgeseq: Parquet cannot be read from standard input: give a file.\n"


def test_a_missing_standard_input(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert run("-", "out.csv") == 1
    assert "There is no standard input" in capsys.readouterr().err


def test_a_missing_standard_output(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    write("in.csv", ROWS)
    monkeypatch.setattr(sys, "stdout", None)
    assert run("in.csv", "-") == 1
    assert "There is no standard output" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_is_followed(run: Run, tmp_path: Path) -> None:
    write("in.csv", ROWS)
    Path("folder").mkdir()
    Path("out.csv").symlink_to(tmp_path / "folder" / "real.csv")
    for _ in range(2):
        assert run("in.csv", "out.csv", "--overwrite") == 0
        assert Path("out.csv").is_symlink()
    assert len(read("folder/real.csv")) == len(ROWS)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bnothing", b"line,task,run\n1,2,3\n", b"PAR1"])
@pytest.mark.parametrize("out", OUTPUTS[1:])
def test_other_files_stay(out: str, content: bytes, run: Run, capsys: Captured) -> None:
    write("in.csv", ROWS)
    Path(out).write_bytes(content)
    capsys.readouterr()
    if not content:
        assert run("in.csv", out) == 0
        return
    assert run("in.csv", out) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert Path(out).read_bytes() == content
    assert not Path(f"{out}.part").exists()
    assert run("in.csv", out, "--overwrite") == 0
    assert len(read(out)) == len(ROWS)


def test_an_interrupted_overwrite_is_continued(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write("in.csv", ROWS)
    Path("out.csv").write_text("old\n", encoding="utf-8")
    run_all, calls = answering.run_all, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) in (2, 5):
            raise KeyboardInterrupt
        return run_all(*arguments)

    monkeypatch.setattr(answering, "run_all", interrupted)
    assert run("in.csv", "out.csv", "--overwrite") == 130
    assert Path("out.csv").read_text(encoding="utf-8") == "old\n"
    assert run("in.csv", "out.csv", "--overwrite") == 130
    assert run("in.csv", "out.csv") == 0
    assert len(read("out.csv")) == len(ROWS)


def test_huge_texts_have_an_error(run: Run) -> None:
    write("in.jsonl", [{"id": 1, "text": "word " * 100_000}, {"id": 2, "text": "fox"}])
    assert run("in.jsonl", "out.csv", demo="gpt2") == 1
    first, second = read("out.csv")
    assert "tokens" in first["error"]
    assert second["output"] in ("good", "bad")


@pytest.mark.parametrize("out", ["out.csv", "out.parquet", "out.jsonl.gz"])
def test_an_output_that_cannot_be_assembled_leaves_only_the_answers(
    run: Run, out: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run makes the output of them."""
    source = write("in.jsonl", ROWS)

    def fail(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert run(source.name, out) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("is full: free some space and run the same command again.")
    )
    assert {path.name for path in Path().iterdir()} == {"say.toml", "in.jsonl", f"{out}.part"}
    assert run(source.name, out) == 0
    assert {path.name for path in Path().iterdir()} == {"say.toml", "in.jsonl", out}
