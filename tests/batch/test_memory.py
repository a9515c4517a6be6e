"""Memory does not grow with the file."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from tests.support.commands import process
from tests.support.processes import python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads and limits memory by Linux")

ROW_BYTES = 1_000_000
LIMIT_KB = 260_000
LIMITED = f"""
import resource, sys
from edgeseq.cli import main
resource.setrlimit(resource.RLIMIT_AS, ({LIMIT_KB} << 10, {LIMIT_KB} << 10))
sys.exit(main())
"""
SMALL_HEAPS = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
# Runs a task with a scripted model on the input and prints the peak of the memory in MB.
SCRIPTED = """
import sys
from pathlib import Path
from edgeseq.batch.answering import Answer
from edgeseq.batch.columns import Columns
from edgeseq.batch.files import answer_file
from edgeseq.batch.forms import form_of
from edgeseq.batch.job import Job
from edgeseq.batch.source import source_of
from edgeseq.runtime.bench.worker import megabytes, peak_bytes
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.tasks.templates import read_template

def answers(windows):
    for window in windows:
        yield window, [Answer("yes") for _ in window.inputs]

template = read_template("closed-book-question-answering")
columns = Columns(template, text_column="text")
job = Job(open_bundle(demo_bundle("t5")).manifest, template, columns, {})
source, out = source_of(Path(sys.argv[1]), columns), Path(sys.argv[2])
for _ in range(2):  # the second time from the finished output
    answer_file(job, source, answers, out, form_of(out))
print(megabytes(peak_bytes()))
"""


def write(path: Path, rows: int, size: int) -> None:
    with gzip.open(path, "wt", compresslevel=1) as file:
        for i in range(rows):
            row = {"id": i, "text": "pronounce: fox", "body": "x" * size}
            file.write(json.dumps(row) + "\n")


@pytest.mark.parametrize("out", ["out.jsonl", "out.csv.gz"])
def test_memory_stays_the_same(out: str, tmp_path: Path) -> None:
    peaks = []
    for count in (8, 40):
        source = tmp_path / f"{count}.jsonl.gz"
        write(source, count, ROW_BYTES)
        peaks.append(float(python(SCRIPTED, source, tmp_path / f"{count}_{out}", **SMALL_HEAPS)))
    few, many = peaks
    assert many < few + 8


@pytest.mark.nightly
def test_a_file_ten_times_larger_than_the_memory(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl.gz", tmp_path / "out.csv.gz"
    count = 10 * LIMIT_KB * 1024 // ROW_BYTES
    write(source, count, ROW_BYTES)
    command = [sys.executable, "-c", LIMITED]
    options = ["--demo", "t5", "--threads", "1", "--text-column", "text", "--max-new-tokens", "2"]
    files = ["--input", source, "--output", out]
    task = "closed-book-question-answering"
    done = process("run", task, *files, *options, command=command, env=SMALL_HEAPS)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        0,
        f"{out} has {count} answers".encode(),
    )
    with gzip.open(out, "rt") as lines:
        assert sum(1 for _ in lines) == count + 1
