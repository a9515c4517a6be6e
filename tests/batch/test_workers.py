"""Several processes: the same answers as one, whichever of them is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseq.batch.answering import Answering
from edgeseq.batch.files import Window, in_this_process
from edgeseq.batch.job import Item
from edgeseq.batch.workers import Setup, Usage, Workers, shares_of
from edgeseq.cli.command_line import main
from edgeseq.runtime import DeviceError, EdgeseqError, Model, OptionError
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.tasks.templates import read_template
from tests.support.commands import COMMAND, Captured, failure, wrong_usage
from tests.support.errors import assert_one_sentence
from tests.support.processes import TIME_LIMIT_S, poll

TASK = "closed-book-question-answering"
WORDS = ("fox", "algorithm", "a", "extraordinary", "house", "home", "clever", "night", "so", "go")
HAS_SIGNALS = sys.platform != "win32"


def setup(**changes: Any) -> Setup:
    given: dict[str, Any] = {"loading": {}, "options": {}, "constants": {}, "columns": []}
    template = read_template(TASK)
    return Setup(bundle=demo_bundle("t5"), template=template, **{**given, **changes})


def windows(count: int) -> list[Window]:
    """Return windows of three inputs, and one without any."""
    texts = [f"pronounce: {WORDS[i % 10]} {WORDS[i % 7]}" for i in range(3 * count)]
    items = [Item(i, b"", {"question": text}, None) for i, text in enumerate(texts)]
    made = [Window([(item, None) for item in items[i : i + 3]], 0) for i in range(0, 3 * count, 3)]
    return [*made, Window([(items[0], b"answered")], 1)]


def quiet(message: str) -> None:
    raise AssertionError(message)


def test_windows_come_in_their_order(demo_t5: Model) -> None:
    alone = in_this_process(Answering(demo_t5, read_template(TASK), {}))
    expected = list(alone(windows(30)))
    with Workers(setup(), 2, 2, quiet) as workers:
        assert workers.ready.device == "cpu"
        assert list(workers(windows(30))) == expected
        usages = workers.usage()
    assert sum(usage.rows for usage in usages) == 90
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not HAS_SIGNALS, reason="needs signals")
def test_a_killed_process_is_started_again(demo_t5: Model) -> None:
    alone = in_this_process(Answering(demo_t5, read_template(TASK), {}))
    said: list[str] = []
    found = []
    with Workers(setup(), 2, None, said.append) as workers:
        for i, pair in enumerate(workers(windows(30))):
            found.append(pair)
            if i in (2, 12):
                child = multiprocessing.active_children()[i % 2]
                os.kill(child.pid or 0, signal.SIGKILL)
        workers.usage()
    assert found == list(alone(windows(30)))
    assert len(said) == 2
    assert all("ended by signal 9: it is started again" in message for message in said)


class Deadly:
    """An option that ends the process which reads it."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (3,)


def test_a_process_that_ends_twice_ends_the_run() -> None:
    said: list[str] = []
    with (
        pytest.raises(EdgeseqError, match="exit status 3, and again when"),
        Workers(setup(options={"seed": Deadly()}), 1, 1, said.append),
    ):
        pass
    assert len(said) == 1
    assert multiprocessing.active_children() == []


def test_errors_of_a_process_are_raised_here() -> None:
    with (
        pytest.raises(OptionError, match="num_beams"),
        Workers(setup(options={"num_beams": 0}), 2, 2, quiet),
    ):
        pass
    assert multiprocessing.active_children() == []


class Full(list[str]):
    """Columns whose reading in another process raises an error of memory."""

    def __reduce__(self) -> tuple[type[Full], tuple[()]]:
        return Full, ()

    def __iter__(self) -> Iterator[str]:
        raise MemoryError

    def __contains__(self, name: object) -> bool:
        raise MemoryError


def test_too_little_memory_of_a_process_is_one_sentence() -> None:
    with (
        pytest.raises(DeviceError, match="A worker has not enough memory") as caught,
        Workers(setup(columns=Full()), 2, 2, quiet),
    ):
        pass
    assert_one_sentence(str(caught.value))
    assert multiprocessing.active_children() == []


def test_a_source_that_fails_ends_the_processes() -> None:
    def failing() -> Iterator[Window]:
        yield from windows(2)
        raise KeyError

    with pytest.raises(KeyError), Workers(setup(), 2, 2, quiet) as workers:
        list(workers(failing()))
    assert multiprocessing.active_children() == []


def test_threads_are_divided() -> None:
    assert shares_of(4, 2) == [2, 2]
    assert shares_of(5, 3) == [2, 2, 1]
    assert shares_of(1, 3) == [1, 1, 1]
    with pytest.raises(OptionError, match="threads is 0"):
        shares_of(0, 2)


def test_usage_is_shown() -> None:
    assert str(Usage(1, 0.0, None, None)) == "1 row, 0.0 rows/s"
    assert str(Usage(2000, 4.0, 90.4, 40.5)) == (
        "2,000 rows, 500.0 rows/s, 90 MB at most, 40 MB of its own"
    )


# The command


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    rows = [f"{i},pronounce: {WORDS[i % 10]} {WORDS[i % 7]}" for i in range(600)]
    path.write_text("id,text\n" + "\n".join(rows), encoding="utf-8")
    return path


def command(source: Path, out: Path, *more: str) -> list[str]:
    files = ["--input", str(source), "--output", str(out)]
    return ["run", TASK, "--demo", "t5", "--text-column", "text", *files, *more]


def test_the_output_is_that_of_one_process(source: Path, tmp_path: Path, capsys: Captured) -> None:
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    source.write_text("".join(lines[:300]) + "x,y,z\n", encoding="utf-8")
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert main(command(source, one)) == 1
    capsys.readouterr()
    assert main(command(source, two, "--workers", "2", "--threads", "2")) == 1
    assert one.read_bytes() == two.read_bytes()
    first, second, last = capsys.readouterr().err.splitlines()
    assert first.startswith("worker 1: ")
    assert second.startswith("worker 2: ")
    assert " rows/s" in second
    assert last == f"{two} has 300 answers, 1 with an error"


def test_processes_share_packed_weights(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source.write_text("text\npronounce: fox\n", encoding="utf-8")
    more = ("--workers", "2", "--prepack", "--kernels", "stock")
    assert main(command(source, tmp_path / "out.csv", *more)) == 0
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_wrong_options_write_nothing(source: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out.jsonl"
    message = failure(capsys, *command(source, out, "--workers", "2", "--num-beams", "0"))
    assert "num_beams" in message
    assert list(tmp_path.iterdir()) == [source]
    for arguments in (["--workers", "2", "text"], ["--workers", "0", "--input", "x"]):
        assert "--workers" in wrong_usage(capsys, "run", TASK, *arguments)


@pytest.mark.skipif(not HAS_SIGNALS, reason="needs process groups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_ends_all_processes(
    number: signal.Signals, source: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    texts = [f"{i},pronounce: {WORDS[i % 10]} {i}" for i in range(900)]  # none is there twice
    source.write_text("id,text\n" + "\n".join(texts), encoding="utf-8")
    process = subprocess.Popen(
        [*COMMAND, *command(source, out, "--workers", "2")],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        poll(lambda: out.exists() and out.stat().st_size > 0)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.kill()
        _, said = process.communicate(timeout=TIME_LIMIT_S)
        assert process.returncode == (130 if number == signal.SIGINT else -9)
        if number == signal.SIGINT:
            assert b"to continue." in said
            assert b"Traceback" not in said
        poll(lambda: not is_group(process.pid))
    finally:
        if is_group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert main(command(source, out, "--workers", "2")) == 0
    assert main(command(source, whole)) == 0
    assert out.read_bytes() == whole.read_bytes()


def is_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
