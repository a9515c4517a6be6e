"""`edgeseq doctor`: the report of an installation, and a short try of its models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli import doctor
from edgeseq.cli.command_line import main
from edgeseq.runtime import Model, __version__
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from tests.support.commands import Captured, process_without, succeed

DEMO = "demo gpt2"


def report(capsys: Captured, *arguments: object, status: int = 0) -> Any:
    assert main(["doctor", "--json", *map(str, arguments)]) == status
    printed = capsys.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


def test_the_report_of_an_installation_that_works(capsys: Captured) -> None:
    found = report(capsys, "--threads", "1")
    assert found["edgeseq"] == __version__
    assert found["packages"].keys() >= {"onnxruntime", "numpy", "tokenizers"}
    assert "CPUExecutionProvider" in found["providers"]
    assert found["threads"] == 1
    assert found["cores"]["usable"] >= 1
    assert found["extras"].keys() >= {"guidance", "export", "train"}
    assert not any("edgeseq" in packages for packages in found["extras"].values())
    assert found["demo gpt2"]["works"] is True


def test_the_demo_generates_what_it_must(capsys: Captured, demo_gpt2: Model) -> None:
    found = report(capsys)[DEMO]
    [expected] = demo_gpt2.generate(doctor.PROMPT, max_new_tokens=5, do_sample=False)
    assert tuple(found["token_ids"]) == expected.token_ids
    assert (found["kernels"], found["kv_cache"]) == (demo_gpt2.kernels, "int8")


def test_wrong_tokens_of_the_demo_fail(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DEMO_IDS", (1, 2, 3, 4, 5))
    found = report(capsys, status=1)[DEMO]
    assert found["works"] is False
    assert "The tokens are wrong" in found["error"]


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_bundle_is_tried_too(capsys: Captured, name: str) -> None:
    found = report(capsys, "--bundle", demo_bundle(name), "--kernels", "stock")["bundle"]
    assert found["works"] is True
    assert (found["architecture"], found["kernels"]) == (name, "stock")
    assert 1 <= len(found["token_ids"]) <= 5


def test_a_damaged_bundle_fails_with_its_error(capsys: Captured, tmp_path: Path) -> None:
    folder = shutil.copytree(demo_bundle("gpt2"), tmp_path / "damaged")
    (folder / "weights.bin").unlink()
    found = report(capsys, "--bundle", folder, status=1)
    assert found[DEMO]["works"] is True
    assert found["bundle"]["works"] is False
    assert "weights.bin" in found["bundle"]["error"]


def test_an_error_of_another_kind_is_reported(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("infer_request.cpp: 1")

    monkeypatch.setattr(doctor, "_generated", fail)
    assert report(capsys, status=1)[DEMO]["error"] == "ValueError: infer_request.cpp: 1"


def test_the_home_folder_is_a_tilde(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    home = tmp_path / "person"
    home.mkdir()
    link.symlink_to(home)
    monkeypatch.setenv("HOME", str(link))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "caches"))
    monkeypatch.setenv("EDGESEQ_API_KEY", "open-sesame")
    assert main(["doctor", "--bundle", str(link / "missing")]) == 1
    text = capsys.readouterr().out
    assert "no folder ~/missing" in text
    assert "~/caches/edgeseq (not there)" in text
    assert str(tmp_path) not in text
    assert "open-sesame" not in text


def test_the_report_as_text(capsys: Captured) -> None:
    lines = succeed(capsys, "doctor").splitlines()
    assert lines[0].split() == ["edgeseq", __version__]
    assert any(line.startswith("demo gpt2      works yes") for line in lines)
    assert doctor.PROMPT not in "\n".join(lines)


def test_without_onnxruntime_it_says_so(tmp_path: Path) -> None:
    done = process_without("onnxruntime", "doctor", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, b"")
    found = json.loads(done.stdout)
    assert "edgeseq needs ONNX Runtime" in found["providers"]
    assert "edgeseq needs ONNX Runtime" in found[DEMO]["error"]


def test_bad_threads_are_reported(capsys: Captured) -> None:
    found = report(capsys, "--threads", "0", status=1)
    assert "threads is 0" in found["threads"]
    assert found[DEMO]["works"] is False
