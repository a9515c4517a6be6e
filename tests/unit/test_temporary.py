"""Temporary folders and file locks: what killed processes leave is deleted, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeseq.runtime import EdgeseqError
from edgeseq.runtime.concurrency.file_lock import lock_file
from edgeseq.runtime.concurrency.temporary import temporary_folder
from tests.support.errors import refusal

HOLD = """
import sys, threading
from pathlib import Path
from edgeseq.runtime.concurrency.temporary import temporary_folder

with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    threading.Event().wait()
"""


def test_a_folder_is_deleted_at_the_end(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_deleted_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_kept_while_its_process_runs_and_deleted_after_its_kill(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            folder = Path(process.stdout.readline().strip())
            with temporary_folder(tmp_path):
                assert (folder / "file").exists()
        finally:
            process.kill()
    assert folder.exists()
    with temporary_folder(tmp_path) as other:
        assert not folder.exists()
        assert other.exists()
    assert list(tmp_path.iterdir()) == []


def test_links_that_look_like_a_leftover_are_not_followed(tmp_path: Path) -> None:
    place, precious = tmp_path / "place", tmp_path / "precious"
    place.mkdir()
    precious.mkdir()
    (precious / "file").write_text("precious")
    (place / ".edgeseq-1").symlink_to(precious)
    (place / ".edgeseq-1.lock").symlink_to(precious / "file")
    with temporary_folder(place):
        pass
    assert (precious / "file").read_text() == "precious"


def test_a_lock_can_be_waited_for(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with lock_file(tmp_path / "lock", tmp_path, wait=True):
            order.append("second")

    with lock_file(tmp_path / "lock", tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        with pytest.raises(EdgeseqError), lock_file(tmp_path / "lock", tmp_path):
            pass
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_is_read_only_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    refusal(EdgeseqError, lambda: lock_file(tmp_path / "lock", tmp_path).__enter__(), match="writ")


def test_a_folder_that_the_system_refuses_to_write_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    message = refusal(EdgeseqError, lambda: lock_file(tmp_path / "lock", tmp_path).__enter__())
    assert message.startswith(f"{tmp_path} cannot be written (Read-only file system)")
