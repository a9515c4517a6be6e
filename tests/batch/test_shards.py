"""The shards of a job on a cluster, its folder and its resuming: all that needs no Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeseq.batch.answering import Answering
from edgeseq.batch.cluster.driver import room_for
from edgeseq.batch.cluster.folder import ERRORS, JOB, LOCK, SHARED, JobFolder, opened
from edgeseq.batch.cluster.shards import (
    Shard,
    check_columns,
    check_ids,
    input_files,
    shard_source,
    shards_of,
)
from edgeseq.batch.cluster.worker import Computing, Done, Work, Worker, bundle_hash, write_shard
from edgeseq.batch.columns import Columns
from edgeseq.batch.files import in_this_process
from edgeseq.batch.forms import Form
from edgeseq.batch.job import Job, changing
from edgeseq.cli.command_line import main
from edgeseq.runtime import BundleError, EdgeseqError, Model, OptionError, PromptError
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.tasks.templates import read_template
from tests.support.commands import Captured, failure, process_without, wrong_usage

TASK = "closed-book-question-answering"
TEMPLATE = read_template(TASK)
COLUMNS = Columns(TEMPLATE)
WORDS = ("fox", "algorithm", "a", "house", "clever", "night", "so", "go", "king", "castle")
NOTHING: list[dict[str, Any]] = []


def question(i: int) -> dict[str, Any]:
    return {"id": f"q{i}", "question": f"pronounce: {WORDS[i % 10]}", "n": i}


def write_lines(path: Path, count: int, first: int = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps(question(first + i)) for i in range(count)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_parquet(path: Path, count: int, group: int, first: int = 0) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(exist_ok=True)
    rows = [question(first + i) for i in range(count)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)


def cut(folder: Path, rows: int) -> list[tuple[str, int, int]]:
    """Return the file, the lines before and the rows of each shard."""
    shards = shards_of(input_files(folder), rows)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    return [(shard.file.name, shard.part.before, shard.rows) for shard in shards]


def values(shard: Shard, id_column: str | None = "id") -> list[dict[str, Any]]:
    with shard_source(shard, COLUMNS, id_column).open() as rows:
        return [{"line": row.line, **row.values, "fault": row.fault} for row in rows.rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one file of JSON Lines with 7 rows."""
    write_lines(tmp_path / "in" / "a.jsonl", 7)
    return tmp_path / "in"


# Shards


def test_lines_are_cut_into_parts_of_equal_rows(folder: Path) -> None:
    assert cut(folder, 3) == [("a.jsonl", 0, 3), ("a.jsonl", 3, 3), ("a.jsonl", 6, 1)]
    assert cut(folder, 7) == [("a.jsonl", 0, 7)]


def test_empty_lines_are_no_rows_but_are_counted_as_lines(tmp_path: Path) -> None:
    text = '\n{"question": "one"}\n  \n\n{"question": "two"}\r\n\n{"question": "three"}'
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    assert cut(tmp_path, 1) == [("a.jsonl", 0, 1), ("a.jsonl", 2, 1), ("a.jsonl", 5, 1)]
    lines = [row["line"] for shard in shards_of(input_files(tmp_path), 1) for row in values(shard)]
    assert lines == [2, 5, 7]


@pytest.mark.parametrize(
    ("count", "group", "limit"), [(10, 4, 4), (10, 4, 3), (10, 3, 8), (9, 9, 2)]
)
def test_every_row_of_parquet_is_in_one_shard(
    tmp_path: Path, count: int, group: int, limit: int
) -> None:
    write_parquet(tmp_path / "a.parquet", count, group)
    shards = shards_of(input_files(tmp_path), limit)
    assert max(shard.rows for shard in shards) <= limit
    rows = [values(shard) for shard in shards]
    assert [len(found) for found in rows] == [shard.rows for shard in shards]
    expected = [{"line": i + 1, **question(i), "fault": ""} for i in range(count)]
    assert sum(rows, NOTHING) == expected


def test_row_groups_stay_together(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 10, 3)
    assert cut(tmp_path, 7) == [("a.parquet", 0, 6), ("a.parquet", 6, 4)]


def test_files_have_the_order_of_their_names_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "_errors.jsonl", ".a.jsonl"):
        write_lines(tmp_path / name, 2)
    write_lines(tmp_path / "sub" / "a.ndjson", 1)
    write_lines(tmp_path / "_old" / "a.jsonl", 1)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "empty.jsonl").touch()
    assert cut(tmp_path, 9) == [("a.jsonl", 0, 2), ("b.jsonl", 0, 2), ("sub/a.ndjson", 0, 1)]
    assert cut(tmp_path / "a.jsonl", 9) == [("a.jsonl", 0, 2)]


def test_rows_without_a_column_of_ids_get_one(folder: Path) -> None:
    [_, shard, _] = shards_of(input_files(folder), 3)
    assert [row["row_id"] for row in values(shard, None)] == [
        *("a.jsonl:4", "a.jsonl:5", "a.jsonl:6")
    ]


def test_a_row_without_an_id_has_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": null, "question": "one"}\n', encoding="utf-8")
    [shard] = shards_of(input_files(tmp_path), 3)
    assert values(shard)[0]["fault"] == "the row has no 'id', the column of ids"


def test_other_files_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").touch()
    with pytest.raises(PromptError, match=r"notes\.txt is neither Parquet"):
        input_files(folder)
    with pytest.raises(PromptError, match="no file or folder"):
        input_files(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptError, match="has no files"):
        input_files(tmp_path / "empty")


def test_a_missing_column_is_refused(folder: Path) -> None:
    files = input_files(folder)
    assert check_columns(files, COLUMNS, "id") == ["id", "question", "n"]
    with pytest.raises(PromptError, match="no column 'key'"):
        check_columns(files, COLUMNS, "key")
    with pytest.raises(PromptError, match="no column 'word'"):
        check_columns(files, Columns(TEMPLATE, text_column="word"), "id")
    (folder / "a.jsonl").write_text('{"question": "one", "row_id": 1}\n', encoding="utf-8")
    assert check_columns(files, COLUMNS, "row_id") == ["question", "row_id"]
    with pytest.raises(PromptError, match="the name of the ids that are made"):
        check_columns(files, COLUMNS, None)


def test_equal_ids_are_refused(folder: Path) -> None:
    write_lines(folder / "b.jsonl", 3, first=7)
    check_ids(input_files(folder), "id")
    write_lines(folder / "c.jsonl", 3, first=9)
    places = r"b\.jsonl:3 and c\.jsonl:1"
    with pytest.raises(PromptError, match=rf'Two rows have the id "q9", {places}: make ids'):
        check_ids(input_files(folder), "id")


def test_a_file_that_has_changed_is_refused(folder: Path) -> None:
    [shard] = shards_of(input_files(folder), 9)
    write_lines(folder / "a.jsonl", 8)
    with pytest.raises(PromptError, match="has changed since the job began"):
        shard_source(shard, COLUMNS, "id")
    (folder / "a.jsonl").unlink()
    with pytest.raises(PromptError, match="not on every machine"):
        shard_source(shard, COLUMNS, "id")


# The folder of a job


COMPUTING = Computing("here", "native", "1", "2").told


@contextmanager
def job(out: Path, shards: Sequence[Shard] = (), **told: Any) -> Iterator[JobFolder]:
    with opened(out, {"task": "a", "options": {"seed": 1}, **told}, shards, "jsonl") as found:
        yield found


def test_the_job_is_noted_once_the_workers_are_known(tmp_path: Path, folder: Path) -> None:
    shards = shards_of(input_files(folder), 4)
    out = tmp_path / "new" / "out"
    with job(out, shards) as first:
        assert {path.name for path in out.iterdir()} == {LOCK, SHARED}
        first.begin(COMPUTING)
    known = json.loads((out / JOB).read_text(encoding="utf-8"))
    assert [shard["name"] for shard in known["shards"]] == ["part-00000.jsonl", "part-00001.jsonl"]
    assert len(known["fingerprint"]) == 64
    assert {path.name for path in out.iterdir()} == {JOB}
    with job(out, shards) as again:
        again.begin(COMPUTING)
    assert json.loads((out / JOB).read_text(encoding="utf-8")) == known


def test_another_job_is_refused(tmp_path: Path) -> None:
    with job(tmp_path) as first:
        first.begin(COMPUTING)
    before = (tmp_path / JOB).read_bytes()
    with (
        pytest.raises(OptionError, match=r"another job \(other options\)"),
        job(tmp_path, options={}),
    ):
        pass
    with (
        pytest.raises(OptionError, match="other task, options"),
        job(tmp_path, options=1, task="b"),
    ):
        pass
    with job(tmp_path) as again, pytest.raises(OptionError, match="other kernels"):
        again.begin({**COMPUTING, "kernels": "stock"})
    assert (tmp_path / JOB).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [JOB]


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(OptionError, match=r"has other files, such as 'a\.jsonl'"), job(tmp_path):
        pass
    with pytest.raises(OptionError, match="is a file"), job(tmp_path / "a.jsonl"):
        pass
    (tmp_path / JOB).write_text("{", encoding="utf-8")
    with pytest.raises(OptionError, match="is damaged"), job(tmp_path):
        pass


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with job(tmp_path), pytest.raises(EdgeseqError, match="Another run"), job(tmp_path):
        pass


def test_finished_shards_are_skipped_and_leftovers_deleted(tmp_path: Path, folder: Path) -> None:
    shards = shards_of(input_files(folder), 3)
    out = tmp_path / "out"
    with job(out, shards) as first:
        first.begin(COMPUTING)
        assert first.missing() == shards
    (out / "part-00001.jsonl").touch()
    (out / ERRORS).mkdir()
    for name in ("part-00001.jsonl", "part-00002.jsonl"):
        (out / ERRORS / name).write_text("{}\n{}\n", encoding="utf-8")
    left = out / ".part-00000.jsonl.abc.tmp"
    left.touch()
    with job(out, shards) as again:
        assert again.missing() == [shards[0], shards[2]]
        assert again.failed() == 2
    assert not left.exists()


# Workers


def work(out: Path, token: str = "", **changes: Any) -> Work:
    given: dict[str, Any] = {
        "bundle": None,
        "demo": "t5",
        "bundle_hash": bundle_hash(demo_bundle("t5")),
        "loading": {"threads": 1},
        "template": TEMPLATE,
        "options": {},
        "columns": COLUMNS,
        "found": ["id", "question", "n"],
        "id_column": "id",
        "folder": out,
        "token": token,
        "form": Form("jsonl"),
    }
    return Work(**{**given, **changes})


def test_shards_together_are_the_output_of_one_process(
    tmp_path: Path, folder: Path, capsys: Captured
) -> None:
    with (folder / "a.jsonl").open("a", encoding="utf-8") as file:
        file.write('not JSON\n\n{"id": 1, "question": null}\n')
    arguments = ["run", TASK, "--demo", "t5", "--input", folder / "a.jsonl"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "single.jsonl")]) == 1
    capsys.readouterr()
    shards = shards_of(input_files(folder), 4)
    out = tmp_path / "out"
    with job(out, shards) as opened_folder:
        worker = Worker(work(out, opened_folder.token))
        computing = worker.ready()
        assert isinstance(computing, Computing)
        opened_folder.begin(computing.told)
        done = [worker.answer(shard) for shard in reversed(shards)]
        assert done == [Done(1, 1), Done(4, 1), Done(4, 0)]
        assert opened_folder.missing() == []
        assert opened_folder.failed() == 2
    names = ["part-00000.jsonl", "part-00001.jsonl", "part-00002.jsonl"]
    assert sorted(path.name for path in out.iterdir()) == [ERRORS, JOB, *names]
    whole = b"".join((out / name).read_bytes() for name in names)
    assert whole == (tmp_path / "single.jsonl").read_bytes()
    errors = [path.read_bytes() for path in sorted((out / ERRORS).iterdir())]
    assert [line for line in whole.splitlines(True) if b'"error"' in line] == errors


def test_columns_of_parquet_keep_their_types(tmp_path: Path, demo_t5: Model) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path / "in" / "a.parquet", 6, 6)
    answers = in_this_process(Answering(demo_t5, TEMPLATE, {}))
    loading = changing(None, demo_t5.device, demo_t5.kernels)
    one = Job(demo_t5.bundle.manifest, TEMPLATE, COLUMNS, {}, loading)
    for shard in shards_of(input_files(tmp_path / "in"), 4):
        source = shard_source(shard, COLUMNS, None)
        write_shard(one, source, answers, tmp_path, shard, Form("parquet"))
    tables = [parquet.read_table(tmp_path / f"part-0000{i}.parquet") for i in (0, 1)]
    assert tables[0].schema == tables[1].schema
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["n"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["row_id"] for row in rows] == [f"a.parquet:{i}" for i in range(1, 7)]
    assert rows[0]["output"] == "F AA1 K S"


def test_a_shard_is_whole_or_absent(tmp_path: Path, folder: Path, demo_t5: Model) -> None:
    [shard] = shards_of(input_files(folder), 9)
    one = Job(demo_t5.bundle.manifest, TEMPLATE, COLUMNS, {}, {})

    def interrupted(windows: Any) -> Iterator[Any]:
        yield from in_this_process(Answering(demo_t5, TEMPLATE, {}))(windows)
        raise EdgeseqError("Interrupted.")

    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(EdgeseqError, match="Interrupted"):
        write_shard(one, shard_source(shard, COLUMNS, "id"), interrupted, out, shard, Form("jsonl"))
    assert list(out.iterdir()) == []


def test_a_worker_refuses_what_differs_from_the_driver(tmp_path: Path) -> None:
    (tmp_path / SHARED).write_text("token", encoding="utf-8")
    other = Worker(work(tmp_path, "another token")).ready()
    assert isinstance(other, EdgeseqError)
    assert "does not see the folder" in str(other)
    other = Worker(work(tmp_path, "token", bundle_hash="other")).ready()
    assert isinstance(other, BundleError)
    assert "has another bundle" in str(other)
    other = Worker(work(tmp_path, "token", bundle=tmp_path / "no bundle")).ready()
    assert isinstance(other, BundleError)
    assert "must be on all machines" in str(other)
    other = Worker(work(tmp_path, "token", options={"num_beams": 0})).ready()
    assert isinstance(other, OptionError)


def test_the_hash_of_a_bundle_has_its_files_but_not_its_model_card(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle("t5"), bundle)
    assert bundle_hash(bundle) == bundle_hash(demo_bundle("t5"))
    (bundle / "README.md").write_text("Mine.", encoding="utf-8")
    assert bundle_hash(bundle) == bundle_hash(demo_bundle("t5"))
    weights = max(bundle.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert bundle_hash(bundle) != bundle_hash(demo_bundle("t5"))


# Room on the machines


def test_as_many_workers_as_fit() -> None:
    assert room_for([2, 2], 1, None) == 4
    assert room_for([4, 3, 0], 2, None) == 3
    assert room_for([4, 3], 2, 2) == 2


@pytest.mark.parametrize(
    ("cpus", "threads", "workers", "message"),
    [
        (
            [2.0, 2.0],
            3,
            None,
            r"room for 0 workers .* 3 \(its machines have 2, 2 CPUs\)",
        ),
        ([2.0, 2.0], 1, 5, "room for 4 workers with --threads 1"),
        ([], 1, None, "room for 0 workers"),
        ([2.0], 0, None, "--threads is 0"),
        ([2.0], 1, 0, "--workers is 0"),
    ],
)
def test_workers_that_never_fit_are_refused(
    cpus: list[float], threads: int, workers: int | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        room_for(cpus, threads, workers)


# The command


def test_ray_is_needed(tmp_path: Path, folder: Path) -> None:
    done = process_without(
        "ray",
        *("run", TASK, "--demo", "t5", "--ray", "--input", folder, "--output", tmp_path / "out"),
    )
    assert done.returncode == 1
    assert done.stderr.decode().startswith("edgeseq: --ray needs Ray: install the extra 'ray'")
    assert list((tmp_path / "out").iterdir()) == []


def test_flags_that_do_not_belong_together(capsys: Captured, folder: Path) -> None:
    run = ("run", TASK)
    files = ("--input", folder, "--output", folder)
    csv = ("--output-format", "csv")
    assert "without --ray" in wrong_usage(capsys, *run, *files, "--id-column", "id")
    assert "needs --input and --output" in wrong_usage(capsys, *run, "--input", folder, "--ray")
    assert "with --ray" in wrong_usage(capsys, *run, *files, "--overwrite", "--ray")
    assert "with --ray" in wrong_usage(capsys, *run, *files, "--device", "cuda", "--ray")
    assert "jsonl or parquet" in wrong_usage(capsys, *run, *files, *csv, "--ray")


def test_wrong_values_are_one_sentence(capsys: Captured, folder: Path) -> None:
    run = ("run", TASK, "--demo", "t5", "--input", folder, "--output", folder, "--ray")
    assert "--shard-rows is 0" in failure(capsys, *run, "--shard-rows", 0)
    assert "--threads is 0" in failure(capsys, *run, "--threads", 0)
    assert "is the column of ids" in failure(capsys, *run, "--output-column", "row_id")
    assert "has other files" in failure(capsys, *run)
