"""training/trainer/checkpoints.py: only complete checkpoints count."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseq.runtime.errors import TrainingError
from edgeseq.training.trainer.checkpoints import MARKER, Checkpoints, Mark, saving
from tests.support.errors import assert_one_sentence


def write(
    checkpoints: Checkpoints, step: int, best: int | None = None, *, marked: bool = True
) -> None:
    path = checkpoints.path(step)
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"x" * step)
    if marked:
        checkpoints.complete(Mark(step=step, best_step=best, finished=False))


def steps(checkpoints: Checkpoints) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in checkpoints.folder.iterdir())


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, best in ((10, 10), (20, 20), (30, 20), (40, 20)):
        write(checkpoints, step, best)
    assert steps(checkpoints) == [20, 40]
    assert checkpoints.newest() == Mark(step=40, best_step=20, finished=False)


def test_a_checkpoint_without_its_marker_is_deleted(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 10, 10)
    write(checkpoints, 20, marked=False)
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 10
    assert steps(checkpoints) == [10]


def test_a_checkpoint_with_a_cut_file_does_not_count(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 10, 10)
    write(checkpoints, 20, 10)
    (checkpoints.path(20) / "weights").write_bytes(b"x")
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 10


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 20}'])
def test_a_damaged_marker_does_not_count(tmp_path: Path, content: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 20, 20)
    (checkpoints.path(20) / MARKER).write_text(content, encoding="utf-8")
    assert checkpoints.newest() is None


def test_there_is_none_before_the_first(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent").newest() is None


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as raised, saving(tmp_path / "checkpoint-3"):
        raise OSError(28, "No space left on device")
    assert_one_sentence(str(raised.value))
    assert "No space left" in str(raised.value) and "--resume" in str(raised.value)
