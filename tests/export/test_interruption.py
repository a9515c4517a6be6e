"""An interrupted export leaves no bundle that loads, and an old bundle unchanged.

A kill leaves the files as they are at that moment. So most tests copy the files in the middle of an
export and look at the copy. A few really kill the process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from edgeseq.cli.command_line import main
from edgeseq.export import export_checkpoint, exporting
from edgeseq.export.graphs import tracing
from edgeseq.runtime import BundleError, load
from edgeseq.runtime.bundle import writing
from edgeseq.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edgeseq.runtime.bundle.writing import BundleWriter
from tests.support.errors import CODE, refusal
from tests.support.files import contents

Action = Callable[[], None]

MOMENTS: dict[str, tuple[Any, str]] = {  # an export is stopped as it calls these
    "start": (exporting, "find_checkpoint"),
    "tokenizer": (exporting, "write_tokenizer"),
    "model": (exporting, "load_model"),
    "tracing": (tracing, "optimum_export"),
    "weights": (tracing, "external_tensor"),
    "graph": (onnx, "save"),
    "verification": (exporting, "verify"),
    "hashing": (writing, "file_entry"),
    "manifest": (Manifest, "to_json"),
    "half of the manifest": (Path, "write_text"),
    "moving": (BundleWriter, "_move_into_place"),
}
DRIVER = """
import importlib, sys, threading
module, name, checkpoint, out, *overwrite = sys.argv[1:]
where = importlib.import_module(module)

def hang(*arguments, **options):
    print("reached", flush=True)
    threading.Event().wait()

from edgeseq.export import export_checkpoint
setattr(where, name, hang)
export_checkpoint(checkpoint, out, overwrite=bool(overwrite))
"""


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A path at which nothing exists."""
    out = tmp_path / "bundles" / "gpt2"
    out.parent.mkdir()
    return out


@pytest.fixture
def taken(empty: Path, bundle: Path) -> Path:
    """A path at which a bundle exists."""
    return Path(shutil.copytree(bundle, empty))


def interrupt() -> None:
    raise KeyboardInterrupt


def at(monkeypatch: pytest.MonkeyPatch, moment: str, action: Action) -> None:
    """Call ``action`` when an export reaches ``moment``."""
    where, name = MOMENTS[moment]
    original = getattr(where, name)

    def call(*arguments: Any, **options: Any) -> Any:
        action()
        return original(*arguments, **options)

    def write_half_first(path: Path, text: str, *arguments: Any, **options: Any) -> Any:
        original(path, text[: len(text) // 2], *arguments, **options)
        return call(path, text, *arguments, **options)

    monkeypatch.setattr(where, name, write_half_first if where is Path else call)


def partial_folders(out: Path) -> list[Path]:
    return [path for path in out.parent.iterdir() if path != out]


def assert_nothing_loads(out: Path) -> None:
    assert not out.exists()
    assert_partial_folders_do_not_load(out)


def assert_partial_folders_do_not_load(out: Path) -> None:
    for folder in partial_folders(out):
        with pytest.raises(BundleError):
            load(folder)


def assert_is_the_old_bundle(out: Path, bundle: Path) -> None:
    assert contents(out) == contents(bundle)
    load(out, verify=True)


# What a kill leaves


@pytest.fixture
def disk(tmp_path: Path, empty: Path) -> tuple[Action, Path]:
    """An action that copies the files, and the bundle's path in the copy."""
    copy = tmp_path / "copy"

    def copy_disk() -> None:
        shutil.copytree(empty.parent, copy, dirs_exist_ok=True)

    return copy_disk, copy / empty.name


@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_loads_after_a_kill(
    moment: str,
    checkpoint: Path,
    empty: Path,
    disk: tuple[Action, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    action, place = disk
    at(monkeypatch, moment, action)
    export_checkpoint(checkpoint, empty)
    assert partial_folders(place) != []
    assert_nothing_loads(place)
    load(empty, verify=True)


@pytest.mark.parametrize("moment", MOMENTS)
def test_old_bundle_loads_after_a_kill(
    moment: str,
    other_checkpoint: Path,
    bundle: Path,
    taken: Path,
    disk: tuple[Action, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    action, place = disk
    at(monkeypatch, moment, action)
    export_checkpoint(other_checkpoint, taken, overwrite=True)
    assert partial_folders(place) != []
    assert_is_the_old_bundle(place, bundle)
    assert contents(taken) != contents(bundle)


def test_real_kill(checkpoint: Path, empty: Path) -> None:
    kill_export(
        "edgeseq.export.graphs.tracing", "_inputs_to_initializers", str(checkpoint), str(empty)
    )
    assert partial_folders(empty) != []
    assert_nothing_loads(empty)
    export_checkpoint(checkpoint, empty)
    load(empty, verify=True)
    assert partial_folders(empty) == []  # what was left is deleted


def test_real_kill_with_overwrite(other_checkpoint: Path, bundle: Path, taken: Path) -> None:
    kill_export(
        "edgeseq.export.exporting", "verify", str(other_checkpoint), str(taken), "overwrite"
    )
    assert partial_folders(taken) != []
    assert_is_the_old_bundle(taken, bundle)
    assert_partial_folders_do_not_load(taken)


def kill_export(*arguments: str) -> None:
    """Run an export in another process and kill it when it calls the named function."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "reached\n"
        finally:
            process.kill()


def test_one_export_at_a_time(checkpoint: Path, empty: Path) -> None:
    with BundleWriter(empty) as writer:
        (writer.folder / "file").touch()
        message = refusal(BundleError, lambda: export_checkpoint(checkpoint, empty), ending=CODE)
        assert message.startswith(f"Another run is writing {empty}")
        assert (writer.folder / "file").exists()
        export_checkpoint(checkpoint, empty.with_name("another"))
    export_checkpoint(checkpoint, empty)
    assert {path.name for path in empty.parent.iterdir()} == {empty.name, "another"}


def test_too_little_space(checkpoint: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=0, used=0, free=12_300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    message = refusal(BundleError, lambda: export_checkpoint(checkpoint, empty), ending=CODE)
    assert message.startswith(f"{empty.parent} has 0.0123 GB of free space, and 0.0")
    assert list(empty.parent.iterdir()) == []


# What Ctrl-C leaves


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_after_control_c(
    moment: str,
    overwrite: bool,
    other_checkpoint: Path,
    bundle: Path,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a bundle that existed before is there."""
    if overwrite:
        shutil.copytree(bundle, empty)
    at(monkeypatch, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(other_checkpoint, empty, overwrite=overwrite)
    monkeypatch.undo()
    assert partial_folders(empty) == []
    if overwrite:
        assert_is_the_old_bundle(empty, bundle)
    else:
        assert not empty.exists()


def test_command_line_ends_cleanly_after_control_c(
    checkpoint: Path,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at(monkeypatch, "verification", interrupt)
    assert main(["export", str(checkpoint), str(empty)]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(empty.parent.iterdir()) == []


# What a failing move leaves


def fail_to_move(monkeypatch: pytest.MonkeyPatch, out: Path, error: BaseException) -> None:
    """Make the move of the new bundle fail, as on Windows while another program reads a file."""
    monkeypatch.setattr(writing, "_exchange", lambda one, other: False)
    original = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if ".partial-" in path.name and Path(target) == out:
            raise error
        return original(path, target)

    monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.parametrize("error", [PermissionError("in use"), KeyboardInterrupt()], ids=repr)
def test_old_bundle_survives_a_move_that_fails(
    error: BaseException,
    other_checkpoint: Path,
    bundle: Path,
    taken: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_to_move(monkeypatch, taken, error)
    with pytest.raises(BundleError if isinstance(error, OSError) else type(error)):
        export_checkpoint(other_checkpoint, taken, overwrite=True)
    assert_is_the_old_bundle(taken, bundle)
    assert partial_folders(taken) == []


@pytest.mark.parametrize("error", [PermissionError("in use"), KeyboardInterrupt()], ids=repr)
def test_nothing_is_left_by_a_move_that_fails(
    error: BaseException, checkpoint: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_move(monkeypatch, empty, error)
    with pytest.raises(BundleError if isinstance(error, OSError) else type(error)):
        export_checkpoint(checkpoint, empty)
    assert list(empty.parent.iterdir()) == []


def test_old_bundle_is_somewhere_at_any_time(
    other_checkpoint: Path,
    bundle: Path,
    taken: Path,
    disk: tuple[Action, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two moves exchange the folders; between them the old bundle has another name."""
    copy_disk, place = disk
    monkeypatch.setattr(writing, "_exchange", lambda one, other: False)
    original = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if Path(target) == taken:
            copy_disk()
        return original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    export_checkpoint(other_checkpoint, taken, overwrite=True)
    manifests = [path.read_bytes() for path in place.parent.rglob(MANIFEST_NAME)]
    assert (bundle / MANIFEST_NAME).read_bytes() in manifests
