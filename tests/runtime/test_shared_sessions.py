"""A process that loads a bundle twice shares its sessions unless the files have changed."""

from __future__ import annotations

import gc
import os
import shutil
import weakref
from pathlib import Path

import pytest

from edgeseq.runtime.ort.graph_session import GraphSession, open_session, shared_session


class Opener:
    """Opens sessions of a bundle's decoder and counts them."""

    def __init__(self, folder: Path) -> None:
        self.files = (folder / "decoder.onnx", folder / "weights.bin")
        self.opened = 0

    def __call__(self, threads: int = 1) -> GraphSession:
        def open_new() -> GraphSession:
            self.opened += 1
            return open_session(self.files[0], threads=threads)

        return shared_session(self.files, ("cpu", threads), open_new)


@pytest.fixture
def opener(bundle: Path, tmp_path: Path) -> Opener:
    return Opener(Path(shutil.copytree(bundle, tmp_path / "bundle")))


def test_the_same_files_are_opened_once(opener: Opener) -> None:
    first = opener()
    assert opener() is first
    assert opener.opened == 1


def test_other_settings_open_another_session(opener: Opener) -> None:
    first = opener(threads=1)
    assert opener(threads=2) is not first
    assert opener.opened == 2


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_was_replaced_is_read_anew(opener: Opener, which: int) -> None:
    first = opener()
    path = opener.files[which]
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)
    assert opener() is not first


def test_a_file_that_was_written_to_is_read_anew(opener: Opener) -> None:
    first = opener()
    status = opener.files[1].stat()
    os.utime(opener.files[1], ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert opener() is not first


def test_a_session_is_freed_with_its_last_user(opener: Opener) -> None:
    gone = weakref.ref(opener())
    gc.collect()
    assert gone() is None
    opener()
    assert opener.opened == 2


def test_a_child_process_opens_its_own(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opener()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert opener() is not first
