"""The output folder of a job on a cluster: what the job is, and which shards are finished.

    _job.json              what the answers depend on, and the rows of each shard
    part-00000.jsonl       the answers to a shard, whole
    _errors/part-00000.jsonl    those of its answers that are errors
    .…                     files that are being written

Programs that read folders of data skip names that begin with ``_`` or ``.``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

from ...runtime.concurrency.file_lock import lock_file
from ...runtime.errors import OptionError
from .shards import Shard

JOB = "_job.json"
ERRORS = "_errors"
SHARED = ".shared"  # by its content, workers know that they see the same folder
TEMPORARY = ".tmp"
LOCK = ".lock"


class JobFolder:
    """The output folder of a job, locked for this process; ``opened`` makes it.

    ``told``: what the answers depend on, by the name that errors have for it.
    """

    def __init__(
        self, path: Path, told: Mapping[str, Any], shards: Sequence[Shard], format: str
    ) -> None:
        self.path, self.shards, self.format = path, shards, format
        self.token = uuid4().hex
        self._told = dict(told)
        self._known = self._read()
        self._compare(self._told)
        (path / SHARED).write_text(self.token, encoding="utf-8")
        self.sweep()

    def sweep(self) -> None:
        """Delete what workers that were killed have begun to write."""
        begun = [self.path.glob(f"{folder}.*{TEMPORARY}") for folder in ("", f"{ERRORS}/")]
        for path in chain(*begun):
            path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        """Return what the job of the folder is; None if the folder is new."""
        file = self.path / JOB
        if file.exists():
            try:
                known = json.loads(file.read_text(encoding="utf-8"))["job"]
                return {**known}
            except (ValueError, KeyError, TypeError) as error:
                raise OptionError(f"{file} is damaged: give another --output.") from error
        others = sorted(path.name for path in self.path.iterdir() if path.name[0] != ".")
        if others:
            raise OptionError(
                f"{self.path} has other files, such as {others[0]!r}: give an empty or new folder."
            )
        return None

    def _compare(self, told: Mapping[str, Any]) -> None:
        told = json.loads(json.dumps(told, default=repr))
        known = self._known if self._known is not None else told
        other = [name for name in told if known.get(name) != told[name]]
        if other:
            raise OptionError(
                f"{self.path} has the answers of another job (other {', '.join(other)}): give "
                "another --output, or start that job's command."
            )

    def begin(self, computing: Mapping[str, Any]) -> None:
        """Note how the workers compute, and so what the job is.

        Raises ``OptionError`` if the shards that are there were computed otherwise.
        """
        self._compare(computing)
        if self._known is not None:
            return
        job = {**self._told, **computing}
        text = json.dumps(job, sort_keys=True, default=repr)
        parts = [
            {
                "name": shard.name(self.format),
                "file": shard.file.name,
                "lines_before": shard.part.before,
                "rows": shard.rows,
            }
            for shard in self.shards
        ]
        known = {"fingerprint": sha256(text.encode()).hexdigest(), "job": job, "shards": parts}
        new = self.path / f".{JOB}{TEMPORARY}"
        new.write_text(json.dumps(known, indent=1, default=repr) + "\n", encoding="utf-8")
        new.replace(self.path / JOB)
        self._known = self._read()

    def missing(self) -> list[Shard]:
        """Return the shards that are not finished."""
        there = {path.name for path in self.path.iterdir()}
        return [shard for shard in self.shards if shard.name(self.format) not in there]

    def failed(self) -> int:
        """Return the number of errors in all shards that are finished."""
        count = 0
        for shard in self.shards:
            file = self.path / ERRORS / shard.name("jsonl")
            if file.exists() and (self.path / shard.name(self.format)).exists():
                with file.open("rb") as lines:
                    count += sum(1 for _ in lines)
        return count


@contextmanager
def opened(
    path: Path, told: Mapping[str, Any], shards: Sequence[Shard], format: str
) -> Iterator[JobFolder]:
    """Open the output folder of a job, which is made if it is missing.

    Raises ``OptionError`` for a folder with anything else, ``EdgeseqError`` if another run is
    writing it.
    """
    if path.exists() and not path.is_dir():
        raise OptionError(f"{path} is a file: with --ray, --output is a folder.")
    path.mkdir(parents=True, exist_ok=True)
    path = path.resolve()
    with lock_file(path / LOCK, path):
        try:
            folder = JobFolder(path, told, shards, format)
            yield folder
            folder.sweep()
        finally:
            (path / SHARED).unlink(missing_ok=True)


def temporary(target: Path) -> Path:
    """Return the name of a new file that is to become ``target``; no other process has it."""
    return target.with_name(f".{target.name}.{uuid4().hex}{TEMPORARY}")


def synced(path: Path) -> None:
    """Write the content of a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
