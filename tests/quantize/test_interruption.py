"""Interrupted or failed quantization leaves no new files and changes no old ones."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeseq.cli.command_line import main
from edgeseq.export import export_checkpoint
from edgeseq.quantize import calibration, draft, gate, quantizing
from edgeseq.quantize.draft import Draft
from edgeseq.runtime import load
from edgeseq.runtime.bundle import writing
from edgeseq.runtime.bundle.manifest import Manifest
from edgeseq.runtime.bundle.writing import BundleWriter
from tests.support.files import contents

FOX = "Once upon a time there was a clever fox; he said: let us go home! "
MOMENTS: dict[str, tuple[Any, str]] = {  # quantizing is stopped as it calls these
    "reading the text": (quantizing, "find_texts"),
    "calibration": (calibration, "part_model"),
    "observing": (calibration.Observed, "add"),
    "smoothing": (draft, "smoothing_factors"),
    "rounding": (draft, "round_to"),
    "writing weights": (draft, "rewrite"),
    "writing graphs": (onnx, "save"),
    "measuring": (gate, "compare"),
    "writing": (Draft, "write"),
    "hashing": (writing, "file_entry"),
    "manifest": (Manifest, "to_json"),
    "half of the manifest": (Path, "write_text"),
    "keeping the reference's logits": (gate.Recorded, "keep"),
    "moving": (BundleWriter, "_move_into_place"),
}


@pytest.fixture
def command(bundle: Path, tmp_path: Path) -> Callable[..., int]:
    """``command(out, *arguments)``: the exit status of ``edgeseq quantize``."""
    text = tmp_path / "fox.txt"
    text.write_text(FOX * 12, encoding="utf-8")

    def run(out: Path, *arguments: str) -> int:
        options = ["--text", str(text), "--allow-loss", *arguments]
        return main(["quantize", str(bundle), str(out), *options])

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A path at which nothing exists, in a folder of its own."""
    folder = tmp_path / "bundles"
    folder.mkdir()
    return folder / "int8"


def stop_at(monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException) -> None:
    where, name = MOMENTS[moment]
    original = getattr(where, name)

    def stop(*arguments: Any, **options: Any) -> Any:
        if where is Path:
            path, text = arguments[:2]
            original(path, text[: len(text) // 2])
        raise error

    monkeypatch.setattr(where, name, stop)


@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_is_left_after_control_c(
    moment: str,
    command: Callable[..., int],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_at(monkeypatch, moment, KeyboardInterrupt())
    assert command(out) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_old_bundle_stays_when_the_disk_is_full(
    moment: str,
    command: Callable[..., int],
    bundle: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(bundle, out)
    stop_at(monkeypatch, moment, OSError(errno.ENOSPC, "No space left on device"))
    assert command(out, "--overwrite") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "edgeseq: The disk is full: free some space and run the same command again."
    monkeypatch.undo()
    assert contents(out) == contents(bundle)
    assert list(out.parent.iterdir()) == [out]
    load(out, verify=True)


def test_the_next_try_succeeds(
    command: Callable[..., int], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, "manifest", KeyboardInterrupt())
        assert command(out) == 130
    assert command(out) == 0
    load(out, verify=True)
    assert list(out.parent.iterdir()) == [out]


def test_the_source_is_only_read(
    command: Callable[..., int], bundle: Path, out: Path, tmp_path: Path
) -> None:
    before = contents(bundle)
    for recipe in ("int8", "int4", "int8-weights"):
        assert command(out, "--recipe", recipe, "--overwrite") == 0
    assert contents(bundle) == before


def test_export_is_stopped_while_it_quantizes(
    checkpoint: Path,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    export_checkpoint(checkpoint, out)
    before = contents(out)
    stop_at(monkeypatch, "measuring", KeyboardInterrupt())
    monkeypatch.setattr("edgeseq.quantize.texts.TOKENS", 1000)
    arguments = ["export", str(checkpoint), str(out), "--precision", "int8", "--overwrite"]
    assert main(arguments) == 130
    assert contents(out) == before
    assert list(out.parent.iterdir()) == [out]
    assert list(temporary.iterdir()) == []
