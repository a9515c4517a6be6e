"""Tasks on the rows of a file: after an interruption, no answer is lost or made twice."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseq.batch import answering, files
from edgeseq.batch.answering import Answering
from edgeseq.batch.columns import Columns
from edgeseq.batch.files import answer_file, in_this_process
from edgeseq.batch.forms import form_of
from edgeseq.batch.job import Job
from edgeseq.batch.source import source_of
from edgeseq.cli.command_line import main
from edgeseq.runtime import EdgeseqError, Model, OptionError
from edgeseq.runtime.concurrency.file_lock import lock_file
from edgeseq.runtime.tasks.templates import Template, read_template
from tests.support.commands import Captured, failure, process, succeed, wrong_usage

TASK = "closed-book-question-answering"
WORDS = ["fox", "algorithm", "a", "extraordinary", "house", "home", "clever", "night", "so", "go"]
LINES = [f"pronounce: {word}" for word in WORDS]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answer(
    model: Model,
    source: Path,
    out: Path,
    options: dict[str, Any] | None = None,
    template: Template | None = None,
    **more: Any,
) -> int:
    template = template or read_template(TASK)
    loading = {} if model.kernels == "stock" else {"kernels": "native"}
    columns = Columns(template)
    job = Job(model.bundle.manifest, template, columns, options or {}, loading)
    answers = in_this_process(Answering(model, template, options or {}))
    read = source_of(source, columns)
    return answer_file(job, read, answers, out, form_of(out), **more).before


@pytest.fixture
def whole(demo_t5: Model, source: Path, tmp_path: Path) -> bytes:
    assert answer(demo_t5, source, tmp_path / "whole.jsonl") == 0
    return (tmp_path / "whole.jsonl").read_bytes()


def test_answers_stand_in_the_order_of_the_lines(demo_t5: Model, whole: bytes) -> None:
    found = [json.loads(line) for line in whole.decode().splitlines()]
    assert [one["line"] for one in found] == list(range(1, len(LINES) + 1))
    assert [one["input"] for one in found] == [{"question": line} for line in LINES]
    assert [one["output"] for one in found] == [r.text.strip() for r in demo_t5.generate(LINES)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0])
def test_a_run_cut_off_anywhere_is_continued(
    share: float, demo_t5: Model, source: Path, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(whole[: int(share * len(whole))])
    there = whole[: int(share * len(whole))].count(b"\n")
    assert answer(demo_t5, source, out) == there
    assert out.read_bytes() == whole


def test_an_interruption_in_the_middle(
    demo_t5: Model, source: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all, calls = answering.run_all, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments[2])
        if len(calls) == 4:  # the first call has no inputs
            raise KeyboardInterrupt
        return run_all(*arguments)

    monkeypatch.setattr(files, "WINDOW", 3)
    monkeypatch.setattr(answering, "run_all", interrupted)
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt, match=r"out.jsonl has 6 answers: .* to continue\."):
        answer(demo_t5, source, out)
    assert out.read_bytes() == b"".join(whole.splitlines(keepends=True)[:6])
    assert answer(demo_t5, source, out) == 6
    assert out.read_bytes() == whole


@pytest.mark.parametrize("old", [b"old\n", None], ids=["other content", "answers of this run"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_ctrl_c_says_what_is_kept(
    old: bytes | None,
    kept: int,
    source: Path,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    run_all, calls = answering.run_all, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > kept + 1:  # the first call has no inputs
            raise KeyboardInterrupt
        return run_all(*arguments)

    monkeypatch.setattr(files, "WINDOW", 1)
    monkeypatch.setattr(answering, "run_all", interrupted)
    out = tmp_path / "out.jsonl"
    before = whole if old is None else old
    out.write_bytes(before)
    command = ["run", TASK, "--demo", "t5", "--input", str(source), "--output", str(out)]
    assert main([*command, "--overwrite"]) == 130
    *_, message = capsys.readouterr().err.splitlines()
    if kept:
        assert message == (
            f"edgeseq: {out} has {kept} answer{'s' * (kept != 1)}: run the same command again "
            "without --overwrite to continue."
        )
        assert len(answers(out)) == kept
    else:
        assert message == f"edgeseq: No answers were written to {out}: run the same command again."
        assert out.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"something else\n",
        b'{"line": 2, "task": "%b", "input": {"question": "x"}, "output": ""}\n' % TASK.encode(),
        b"[]\n",
        b"\xff\xfe\n",
        b"notes without an end of line",
        b'{"a": 1}',
    ],
)
def test_other_files_are_left_alone(
    content: bytes, demo_t5: Model, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(content)
    with pytest.raises(OptionError, match="line 1, is not the answer to line 1"):
        answer(demo_t5, source, out)
    with pytest.raises(OptionError, match="line 1, is not the answer to line 1"):
        answer(demo_t5, source, out, retry_errors=True)
    assert out.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"lines.txt", "out.jsonl"}
    answer(demo_t5, source, out, overwrite=True)
    assert len(answers(out)) == len(LINES)


def test_a_tail_that_is_no_answer_is_left_alone(
    demo_t5: Model, source: Path, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    for content in (whole + b"notes", b"".join(whole.splitlines(keepends=True)[:3]) + b"notes"):
        out.write_bytes(content)
        with pytest.raises(OptionError, match="is not the answer to line"):
            answer(demo_t5, source, out)
        assert out.read_bytes() == content


def test_overwriting_begins_with_the_first_answer(
    demo_t5: Model, source: Path, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(whole)
    with pytest.raises(OptionError):
        answer(demo_t5, source, out, {"num_beams": 0}, overwrite=True)
    assert out.read_bytes() == whole
    source.write_text(LINES[0], encoding="utf-8")
    assert answer(demo_t5, source, out, overwrite=True) == 0
    assert out.read_bytes() == whole.splitlines(keepends=True)[0]
    source.write_text("", encoding="utf-8")
    assert answer(demo_t5, source, out, overwrite=True) == 0
    assert out.read_bytes() == b""


def test_answers_of_another_model_or_by_other_options_are_left_alone(
    demo_gpt2: Model, demo_t5: Model, source: Path, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    there = b"".join(whole.splitlines(keepends=True)[:3])
    out.write_bytes(there)
    with pytest.raises(OptionError, match="by this model, template and options"):
        answer(demo_t5, source, out, {"max_new_tokens": 5})
    with pytest.raises(OptionError, match="by this model, template and options"):
        answer(demo_gpt2, source, out)
    template = read_template(TASK)
    forms = {kind: replace(form, prompt=form.prompt + "?") for kind, form in template.forms.items()}
    changed = replace(template, forms=forms)
    with pytest.raises(OptionError, match="by this model, template and options"):
        answer(demo_t5, source, out, template=changed)
    for other, form in (
        (demo_t5, replace(template, defaults={"question": "?"})),
        (demo_t5.with_defaults({**demo_t5.bundle.manifest.generation, "num_beams": 2}), template),
    ):
        with pytest.raises(OptionError, match="by this model, template and options"):
            answer(other, source, out, template=form)
    assert out.read_bytes() == there
    assert answer(demo_t5, source, out) == 3
    assert out.read_bytes() == whole


def test_one_writer_at_a_time(demo_t5: Model, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with (
        lock_file(tmp_path / ".out.jsonl.lock", out),
        pytest.raises(EdgeseqError, match="Another run is writing"),
    ):
        answer(demo_t5, source, out)
    assert not out.exists()
    assert answer(demo_t5, source, out) == 0


def test_answers_to_another_input_are_left_alone(
    demo_t5: Model, source: Path, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(whole)
    source.write_text("\n".join([*LINES[:4], "pronounce: other"]), encoding="utf-8")
    with pytest.raises(OptionError, match="line 5, is not the answer to line 5"):
        answer(demo_t5, source, out)
    source.write_text("\n".join(LINES[:4]), encoding="utf-8")
    with pytest.raises(OptionError, match="line 5, is not"):
        answer(demo_t5, source, out)
    assert out.read_bytes() == whole


def test_lines_that_were_added_are_answered(
    demo_t5: Model, source: Path, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(whole)
    source.write_text("\n".join([*LINES, "pronounce: new"]), encoding="utf-8")
    assert answer(demo_t5, source, out) == len(LINES)
    assert out.read_bytes().startswith(whole)
    assert answers(out)[-1]["input"] == {"question": "pronounce: new"}


def test_an_input_that_cannot_be_served_has_an_error(tmp_path: Path, capsys: Captured) -> None:
    source, out = tmp_path / "lines.txt", tmp_path / "out.jsonl"
    source.write_text(f"One\nTwo\n{'word ' * 1024}\nFour\n", encoding="utf-8")
    command = ["run", "completion", "--input", str(source), "--output", str(out), "--seed", "1"]
    for before in ("", ", 4 of them from an earlier run"):
        assert main([*command, "--max-new-tokens", "2"]) == 1
        assert capsys.readouterr().err == f"{out} has 4 answers{before}, 1 with an error\n"
        found = answers(out)
        assert [one["line"] for one in found] == [1, 2, 3, 4]
        assert ["output" in one for one in found] == [True, True, False, True]
        assert found[2]["error"].startswith("The prompt has 1026 tokens")


# The commands


def test_run_a_file(source: Path, whole: bytes, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out.jsonl"
    command = ["run", TASK, "--demo", "t5", "--input", str(source), "--output", str(out)]
    assert main(command) == 0
    assert out.read_bytes() == whole
    assert main(command) == 0
    assert out.read_bytes() == whole
    *_, last = capsys.readouterr().err.splitlines()
    assert last == f"{out} has 10 answers, 10 of them from an earlier run"
    assert "is the input" in failure(capsys, *command[:-1], source)
    assert source.read_text(encoding="utf-8").splitlines() == LINES


def test_standard_input_and_output(source: Path, whole: bytes) -> None:
    arguments = ("run", TASK, "--demo", "t5", "--input", "-", "--output", "-")
    done = process(*arguments, input=source.read_bytes())
    assert done.returncode == 0
    assert done.stdout == whole
    assert done.stderr == b"standard output has 10 answers\n"


def test_an_output_that_is_no_file_is_refused(source: Path, capsys: Captured) -> None:
    command = ["run", TASK, "--demo", "t5", "--input", source, "--output", os.devnull]
    assert "is not a file" in failure(capsys, *command)
    message = failure(capsys, *command, "--field", "question=x")
    assert "--field question has no effect with --input" in message


def test_run_a_text(demo_t5: Model, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("run", TASK, "--demo", "t5", LINES[0])
    assert succeed(capsys, *command) == demo_t5.generate(LINES[0])[0].text + "\n"
    printed = succeed(capsys, *command, "--json", "--max-new-tokens", "2")
    [expected] = demo_t5.generate(LINES[0], max_new_tokens=2)
    assert json.loads(printed) == {"output": expected.text.strip()}
    printed = succeed(capsys, "run", "classification", "A charming film.")
    lines = [line.split() for line in printed.splitlines()]
    assert {label for _, label in lines} == {"positive", "negative"}
    assert sum(float(probability) for probability, _ in lines) == pytest.approx(1, abs=2e-4)
    options = ("--demo", "t5", "--max-new-tokens", "3")
    question = ("run", "open-book-question-answering", *options, "Who?")
    succeed(capsys, *question, "--field", "context=The fox.")
    assert "context is missing" in failure(capsys, *question)
    message = failure(capsys, *question, "--field", "context=A.", "--field", "context=B.")
    assert "--field context is given twice" in message
    message = failure(capsys, *question, "--field", "other=The fox.")
    assert "question or context" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output", "x.jsonl"],
        ["--text-column", "a", "text"],
        ["--input", "x.txt", "--overwrite"],
        ["--input", "x.txt", "--output", "-", "--retry-errors"],
        ["--input", "x.txt", "--output-format", "csv"],
        ["--input", "x.txt", "--output", "y.csv", "--retry-errors", "--overwrite"],
        ["--overwrite", "text"],
        ["--input", "x.txt", "--output", "y.jsonl", "text"],
        ["--input", "x.txt", "--output", "y.jsonl", "--json"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: Captured) -> None:
    wrong_usage(capsys, "run", TASK, *arguments)


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out.jsonl"
    missing = tmp_path / "no.txt"
    failure(capsys, "run", TASK, "--demo", "t5", "--input", missing, "--output", out)
    assert not out.exists()


def test_tasks_are_listed_shown_and_copied(tmp_path: Path, capsys: Captured) -> None:
    listed = succeed(capsys, "tasks")
    assert "summarization" in listed
    assert "completion                      Continue a text (decoder-only)" in listed
    shown = succeed(capsys, "tasks", "summarization")
    assert 'prompt = "summarize: {text}"' in shown
    copy = tmp_path / "mine.toml"
    succeed(capsys, "tasks", "summarization", "--copy", copy)
    assert copy.read_text(encoding="utf-8") == shown
    for arguments, message in (
        (("summarization", "--copy", copy), "exists already"),
        (("summarization", "--copy", tmp_path / "mine.txt"), "must end in .toml"),
        (("--copy", tmp_path / "other.toml"), "needs the name of a task"),
        (("nonsense",), "There is no task 'nonsense'"),
    ):
        assert message in failure(capsys, "tasks", *arguments)
    succeed(capsys, "run", copy, "--demo", "t5", "The fox.", "--max-new-tokens", "3")
