"""Runs that cannot write: one sentence, and nothing half-written that loads."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime.errors import TrainingError
from tests.support.date_pairs import write_date_pairs
from tests.support.errors import refusal
from tests.support.training_runs import run, tiny_template

resource = pytest.importorskip("resource")  # limits of a process, which Windows does not have


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_date_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", 60)


@contextmanager
def small_files() -> Iterator[None]:
    """Let the system refuse files above 60 kB in the block, as a full disk would."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(pairs: Path, tmp_path: Path) -> None:
    out, template = tmp_path / "out", tiny_template("t5-scratch")
    with small_files():
        message = refusal(TrainingError, lambda: run(template, pairs, out))
    assert "checkpoint-4 cannot be written" in message
    assert "--resume" in message
    assert not (out / "checkpoint").exists()
    run(template, pairs, out, resume=True)
    assert (out / "checkpoint" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["save_pretrained", "write_held_out"])
def test_a_final_checkpoint_is_whole_or_absent(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    target = "edgeseq.training.run.write_held_out"
    if name == "save_pretrained":
        target = "edgeseq.training.models.save_checkpoint"
    monkeypatch.setattr(target, full)
    template = tiny_template("t5-scratch", trainer__max_steps=2)
    refusal(TrainingError, lambda: run(template, pairs, out), match="No space left")
    assert not (out / "checkpoint").exists()
    assert not list(out.glob(".checkpoint*"))


def test_a_folder_inside_a_file_is_refused(pairs: Path, tmp_path: Path) -> None:
    out = pairs / "out"
    with pytest.raises(OSError, match=r"pairs\.jsonl"):
        run(tiny_template("t5-scratch"), pairs, out)
