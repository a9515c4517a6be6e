"""Writing a bundle: the whole bundle or nothing, and old files stay."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseq.runtime import BundleError, load
from edgeseq.runtime.bundle import writing
from edgeseq.runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from edgeseq.runtime.bundle.reading import file_entry, open_bundle
from edgeseq.runtime.bundle.writing import BundleWriter
from tests.support.errors import refusal

FILES = ("decoder.onnx", "tokenizer.json", "weights.bin")


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return replace(open_bundle(bundle).manifest, files={}, seal="")


def fill(folder: Path, bundle: Path) -> None:
    for name in FILES:
        shutil.copy(bundle / name, folder / name)


def contents(folder: Path) -> dict[str, FileEntry | None]:
    """Return the entry of each file below ``folder``, and None for folders."""
    return {
        path.relative_to(folder).as_posix(): file_entry(path) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def old(bundle: Path, tmp_path: Path) -> Path:
    """A bundle at the target, with one file that a new bundle does not have."""
    shutil.copytree(bundle, tmp_path / "out")
    (tmp_path / "out" / "old.txt").write_text("old", encoding="utf-8")
    return tmp_path / "out"


def test_commit_moves_everything_into_place(
    bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    out = tmp_path / "not" / "yet" / "there"
    with BundleWriter(out) as writer:
        fill(writer.folder, bundle)
        (writer.folder / "sub").mkdir()
        (writer.folder / "sub" / "note.txt").write_bytes(b"1234")
        assert not out.exists()
        written = writer.commit(manifest)
    opened = open_bundle(out, verify=True)
    assert written == opened
    assert set(opened.manifest.files) == {*FILES, "sub/note.txt"}
    assert opened.manifest.files["sub/note.txt"].size_bytes == 4
    assert list(out.parent.iterdir()) == [out]
    assert load(out, threads=1).generate_ids([[1]], max_new_tokens=1)


def test_an_empty_folder_is_filled(bundle: Path, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with BundleWriter(tmp_path / "out") as writer:
        fill(writer.folder, bundle)
        writer.commit(manifest)
    open_bundle(tmp_path / "out", verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_relative_target(
    bundle: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with BundleWriter(Path("out")) as writer:
        fill(writer.folder, bundle)
        writer.commit(manifest)
    open_bundle(tmp_path / "out", verify=True)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("taken", ["file", "other/file"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, taken: str, overwrite: bool) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_bytes(b"precious")
    before = contents(tmp_path)
    out = tmp_path / Path(taken).parts[0]
    assert out.name in refusal(
        BundleError, lambda: BundleWriter(out, overwrite=overwrite).__enter__()
    )
    assert contents(tmp_path) == before


def test_a_bundle_is_replaced_only_on_request(old: Path) -> None:
    before = contents(old.parent)
    assert "--overwrite" in refusal(BundleError, lambda: BundleWriter(old).__enter__())
    assert contents(old.parent) == before


def test_overwrite_replaces_the_whole_bundle(bundle: Path, manifest: Manifest, old: Path) -> None:
    before = contents(old)
    with BundleWriter(old, overwrite=True) as writer:
        fill(writer.folder, bundle)
        assert contents(old) == before
        writer.commit(manifest)
    assert set(contents(old)) == {*FILES, MANIFEST_NAME}
    assert list(old.parent.iterdir()) == [old]
    open_bundle(old, verify=True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(
    bundle: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error), BundleWriter(tmp_path / "out") as writer:
        fill(writer.folder, bundle)
        raise error
    assert contents(tmp_path) == {}


def test_without_commit_nothing_is_written(bundle: Path, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        fill(writer.folder, bundle)
    assert contents(tmp_path) == {}


def test_an_exception_leaves_the_old_bundle(bundle: Path, old: Path) -> None:
    before = contents(old.parent)
    with pytest.raises(ValueError), BundleWriter(old, overwrite=True) as writer:
        fill(writer.folder, bundle)
        raise ValueError
    assert contents(old.parent) == before


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that cannot exchange two folders in one step."""
    monkeypatch.setattr(writing, "_exchange", lambda one, other: False)


@pytest.mark.usefixtures("without_exchange")
@pytest.mark.parametrize("failing", [1, 2])
def test_a_move_that_fails_leaves_the_old_bundle(
    bundle: Path, manifest: Manifest, old: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """As on Windows, where a folder in use cannot be moved."""
    before, moves, rename = contents(old), [], Path.rename

    def move(path: Path, target: Path) -> Path:
        moves.append(target)
        if len(moves) == failing:
            raise PermissionError(13, "in use", str(path))
        return rename(path, target)

    with (
        pytest.raises((PermissionError, BundleError)),
        BundleWriter(old, overwrite=True) as writer,
    ):
        fill(writer.folder, bundle)
        monkeypatch.setattr(Path, "rename", move)
        writer.commit(manifest)
    assert contents(old) == before


@pytest.mark.usefixtures("without_exchange")
def test_overwrite_replaces_the_whole_bundle_in_two_moves(
    bundle: Path, manifest: Manifest, old: Path
) -> None:
    with BundleWriter(old, overwrite=True) as writer:
        fill(writer.folder, bundle)
        writer.commit(manifest)
    assert set(contents(old)) == {*FILES, MANIFEST_NAME}
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_bundle_that_was_being_replaced_at_a_kill_is_moved_back(
    old: Path, overwrite: bool
) -> None:
    """A kill between two moves leaves it in a hidden folder."""
    before, hidden = contents(old), old.with_name(".out.old-abc")
    hidden.mkdir()
    old.rename(hidden / "out")
    if overwrite:
        with BundleWriter(old, overwrite=True):
            pass
    else:
        assert "--overwrite" in refusal(BundleError, lambda: BundleWriter(old).__enter__())
    assert contents(old) == before
    assert list(old.parent.iterdir()) == [old]


def test_a_bundle_that_another_run_wrote_in_the_meantime_is_not_replaced(
    bundle: Path, tmp_path: Path
) -> None:
    writer = BundleWriter(tmp_path / "out")
    shutil.copytree(bundle, tmp_path / "out")
    before = contents(tmp_path)
    assert "--overwrite" in refusal(BundleError, writer.__enter__)
    assert contents(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="the exchange in one step is Linux's")
def test_a_bundle_is_at_the_target_at_any_time(
    bundle: Path, manifest: Manifest, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No folder is moved away: what a kill leaves is the old bundle or the new one."""
    with BundleWriter(old, overwrite=True) as writer:
        fill(writer.folder, bundle)
        monkeypatch.delattr(Path, "rename")
        writer.commit(manifest)
        open_bundle(old, verify=True)
