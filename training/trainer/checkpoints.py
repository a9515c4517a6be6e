"""Checkpoints for resuming: whole or not used, the newest and the best kept.

A checkpoint counts only once its marker is written, which is the last file. A process that is
killed while it saves therefore never resumes from half a checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError

from ...runtime.errors import TrainingError, reason

NAME = re.compile(r"checkpoint-(\d+)")
MARKER = "complete.json"
LITTLE_SPACE = 1 << 20  # bytes; with less, a failure to write means that the disk is full


@dataclass(frozen=True)
class Mark:
    """What the marker of a complete checkpoint says."""

    step: int
    best_step: int | None  # of the best checkpoint so far
    finished: bool  # whether training ended here


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a run's folder."""

    folder: Path

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of ``step``."""
        return self.folder / f"checkpoint-{step}"

    def begin(self, step: int) -> None:
        """Delete what an interrupted run has left of the checkpoint of ``step``."""
        (self.path(step) / MARKER).unlink(missing_ok=True)
        shutil.rmtree(self.path(step), ignore_errors=True)

    def complete(self, mark: Mark) -> None:
        """Mark a checkpoint as complete, then delete all but it and the best one."""
        path = self.path(mark.step)
        sizes = {file.name: file.stat().st_size for file in path.iterdir()}
        write_whole(path / MARKER, json.dumps({**asdict(mark), "files": sizes}))
        self.clean({mark.step, mark.best_step})

    def clean(self, kept: set[int | None]) -> None:
        """Delete the checkpoints of all steps but ``kept``, the markers first."""
        for step, path in self._folders():
            if step not in kept:
                (path / MARKER).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)

    def newest(self) -> Mark | None:
        """Return the newest complete checkpoint and delete incomplete ones; None if none is."""
        marks: list[Mark] = []
        for step, path in self._folders():
            mark = _read_mark(path)
            if mark is None or mark.step != step:
                shutil.rmtree(path, ignore_errors=True)
            else:
                marks.append(mark)
        return max(marks, key=lambda mark: mark.step, default=None)

    def _folders(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        found = ((NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in found if match is not None)


def _read_mark(path: Path) -> Mark | None:
    """Return the mark of a checkpoint whose files are all there; None for an incomplete one."""
    try:
        content = json.loads((path / MARKER).read_text(encoding="utf-8"))
        sizes = content.pop("files")
        if any((path / name).stat().st_size != size for name, size in sizes.items()):
            return None
        return Mark(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which is moved to ``path`` after the block, or deleted."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    with whole(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn an error that the block raises as it writes to ``path`` into one sentence.

    Raises ``TrainingError``, which says to continue with --resume.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(_why(path, error)) from error


def _why(path: Path, error: Exception) -> str:
    number = getattr(error, "errno", None)
    why = os.strerror(number) if number else reason(error)
    existing = next((place for place in (path, *path.parents) if place.exists()), Path())
    if shutil.disk_usage(existing).free < LITTLE_SPACE:
        why = "the disk is full"
    return (
        f"{path} cannot be written ({why}): make it writable or free some space, then continue "
        "with --resume."
    )
