"""A local Ray cluster of two nodes: workers, a node and the driver end, and no row is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest

from tests.support.commands import COMMAND
from tests.support.processes import TIME_LIMIT_S, poll

pytestmark = pytest.mark.nightly
pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")

TASK = "closed-book-question-answering"
WORDS = ("fox", "algorithm", "a", "extraordinary", "house", "home", "clever", "night", "so", "go")
TASKS = {
    "texts": (TASK, "--demo", "t5", "--num-beams", "2"),
    "labels": ("classification", "--demo", "gpt2", "--text-column", "question"),
}
ROWS = 800  # in each of two files
SHARD_ROWS = 20
SHARDS = 2 * ROWS // SHARD_ROWS
CLUSTER = """
import ray, sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 2, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
other = cluster.add_node(**node)
print(cluster.address, flush=True)
for line in sys.stdin:  # asks to remove the other node
    cluster.remove_node(other)
    print("removed", flush=True)
cluster.shutdown()
"""
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}


class LocalCluster:
    """Two nodes of two logical CPUs each, made by a process of their own."""

    def __init__(self, process: subprocess.Popen[str], to: IO[str], of: IO[str]) -> None:
        self._process, self._to, self._of = process, to, of
        self.address = of.readline().strip()

    def remove_node(self) -> None:
        print("remove", file=self._to, flush=True)
        assert self._of.readline() == "removed\n"

    def workers(self) -> list[int]:
        """Return the process ids of the workers that answer shards."""
        found = psutil.Process(self._process.pid).children(recursive=True)
        return [one.pid for one in found if title(one).startswith("ray::Worker")]


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield LocalCluster(process, process.stdin, process.stdout)
    process.stdin.close()
    process.wait(TIME_LIMIT_S)
    process.stdout.close()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A folder with a file of JSON Lines and a file of Parquet; some rows are broken."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    made = [
        {"id": f"q{i}", "question": f"pronounce: {WORDS[i % 10]} {WORDS[i % 7]}", "n": i}
        for i in range(2 * ROWS)
    ]
    made[33]["question"] = made[-1]["question"] = None  # type: ignore[assignment]
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    lines = "".join(f"{json.dumps(row)}\n" for row in made[:ROWS])
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    table = pyarrow.Table.from_pylist(made[ROWS:])
    parquet.write_table(table, folder / "more" / "b.parquet", row_group_size=7 * SHARD_ROWS)
    return folder


def command(*arguments: object, task: Sequence[str] = TASKS["texts"]) -> list[str]:
    return [*COMMAND, "run", *task, *map(str, arguments)]


def run(arguments: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=300
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("task", TASKS)
def test_no_row_is_lost_or_answered_twice(
    task: str, cluster: LocalCluster, rows: Path, tmp_path: Path
) -> None:
    expected = b""
    for name in ("a.jsonl", "more/b.parquet"):
        single = tmp_path / f"{Path(name).stem}.jsonl"
        assert run(command("--input", rows / name, "--output", single, task=TASKS[task]))[0] == 1
        expected += single.read_bytes()

    out = tmp_path / "out"
    job = command(
        *("--ray", cluster.address, "--input", rows, "--output", out, "--threads", 1),
        *("--shard-rows", SHARD_ROWS, "--id-column", "id", "--output-format", "jsonl"),
        task=TASKS[task],
    )

    def shards() -> dict[str, int]:
        """Return the finished shards, and when each was written."""
        return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.jsonl")}

    def until(count: int) -> None:
        poll(lambda: len(shards()) >= count)

    with (tmp_path / "said").open("w+") as said:
        driver = subprocess.Popen(job, env=ENVIRONMENT, stderr=said)
        until(5)
        for _ in range(2):
            os.kill(cluster.workers()[0], signal.SIGKILL)
            until(len(shards()) + 10)
        driver.kill()
        driver.wait()
        said.seek(0)
        told = said.read().splitlines()
        assert len(told) == 2
        assert all(line.startswith("a worker ended (") for line in told)
        assert all(line.endswith("): another one is started") for line in told)
    poll(lambda: cluster.workers() == [])
    before = shards()
    assert 10 <= len(before) < SHARDS
    assert all(size_of(path) == SHARD_ROWS for path in out.glob("part-*.jsonl"))

    resumed = subprocess.Popen(job, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until(len(before) + 5)
    cluster.remove_node()
    _, end = resumed.communicate(timeout=300)
    assert resumed.returncode == 1
    assert f"{len(before)} of them from an earlier run, and 2 rows have an error" in end
    assert before.items() <= shards().items()

    parts = sorted(out.glob("part-*.jsonl"))
    assert len(parts) == SHARDS
    found = b"".join(part.read_bytes() for part in parts)
    assert [json.loads(line)["id"] for line in found.splitlines()] == [
        f"q{i}" for i in range(2 * ROWS)
    ]
    assert found == expected
    errors = b"".join(path.read_bytes() for path in sorted((out / "_errors").iterdir()))
    assert [json.loads(line)["id"] for line in errors.splitlines()] == ["q33", f"q{2 * ROWS - 1}"]
    assert sorted(path.name for path in out.iterdir() if path.name[0] == ".") == []

    status, error = run(job)  # all is there: neither workers nor a cluster are needed
    assert status == 1
    assert f"{SHARDS} of them from an earlier run" in error
    status, error = run([*job, "--seed", "3"])
    assert status == 1
    assert "another job (other options)" in error


def size_of(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def test_workers_that_never_fit_are_refused(
    cluster: LocalCluster, rows: Path, tmp_path: Path
) -> None:
    given = ("--ray", cluster.address, "--input", rows, "--output", tmp_path / "out")
    status, told = run(command(*given, "--threads", 3))
    assert status == 1
    assert told.startswith("edgeseq: The cluster has room for 0 workers with --threads 3")
    status, told = run(command(*given, "--workers", 5))
    assert status == 1
    assert told.startswith("edgeseq: The cluster has room for 4 workers with --threads 1")
    wrong = {**options(given), "--ray": "127.0.0.1:1"}
    status, told = run(command(*(item for pair in wrong.items() for item in pair)))
    assert status == 1
    assert told.startswith("edgeseq: No Ray cluster answers at 127.0.0.1:1")
    assert len(told.splitlines()) == 1


def options(arguments: tuple[object, ...]) -> Mapping[str, object]:
    names = map(str, arguments[::2])
    return dict(zip(names, arguments[1::2], strict=True))


def test_a_predictor_is_a_class_for_ray_data(cluster: LocalCluster, tmp_path: Path) -> None:
    code = f"""
import logging, ray
from edgeseq.batch import Predictor

ray.init({cluster.address!r}, log_to_driver=False, logging_level=logging.ERROR)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = [{{"id": i, "question": "pronounce: fox"}} for i in range(40)]
answers = ray.data.from_items(rows).map_batches(
    Predictor,
    fn_constructor_args=(None, {TASK!r}, 1),
    fn_constructor_kwargs={{"loading": {{"demo": "t5"}}}},
    compute=ray.data.ActorPoolStrategy(size=2),
    num_cpus=1,
    batch_size=16,
)
found = answers.take_all()
assert sorted(row["id"] for row in found) == list(range(40))
assert {{row["output"] for row in found}} == {{"F AA1 K S"}}
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
