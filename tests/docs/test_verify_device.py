"""The command that verifies a device, run with the CPU as a stand-in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import DeviceError
from edgeseq.runtime.ort.devices import parse_device

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def verify_device() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import verify_device
    finally:
        sys.path.remove(str(BENCHMARKS))
    return verify_device


def test_the_report_names_the_stand_in(
    verify_device: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_device, "RECIPES", ("fp16",))
    report = tmp_path / "report.md"
    said: list[str] = []
    arguments = [str(bundle), "--report", str(report)]
    assert verify_device.main([*arguments, "--stand-in"], said.append) == 0
    text = report.read_text(encoding="utf-8")
    assert text.startswith("# NOT VERIFIED on 'cuda': the CPU stood in for it")
    assert "has no CUDAExecutionProvider" in text
    assert "NOT VERIFIED" in said[-1]
    found = json.loads(report.with_suffix(".json").read_text())
    assert found["stand_in"] is True
    checks = {check["check"] for check in found["checks"]}
    assert {"logits beside the CPU's", "invariance", "texts, 4 beams", "memory"} <= checks
    assert "logits beside float32 on the CPU" in checks
    texts = [check for check in found["checks"] if check["check"].startswith("texts")]
    assert len(texts) == 9
    for check in texts:  # the stand-in computes with the CPU's kernels
        same, _, count, *_ = check["found"].split()
        assert same == count


def test_the_report_marks_a_failed_check(verify_device: Any) -> None:
    report = verify_device.Report()
    report.add("a", "b", False, "c")
    report.add("a", "b", None, "c")
    assert report.failed == 1
    assert "| a | b | FAILED | c |" in report.markdown("# head")


def test_a_device_that_is_there_is_no_stand_in(
    verify_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = parse_device("AzureExecutionProvider")  # in every build, takes no nodes
    target, why = verify_device.find_target(device.name)
    assert (target.device, target.is_stand_in, why) == (device, False, "")
    target, why = verify_device.find_target("CoreMLExecutionProvider")
    assert target.is_stand_in
    assert "no CoreMLExecutionProvider" in why


def test_an_error_while_checking_is_in_the_report(
    verify_device: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that lacks a kernel: the report has the error and the other checks."""
    monkeypatch.setattr(verify_device, "RECIPES", ("fp16",))
    report = tmp_path / "report.md"
    arguments = [str(bundle), "--device", "AzureExecutionProvider", "--report", str(report)]

    def lacks(*_: Any, **__: Any) -> Any:
        raise DeviceError("The device failed: no kernel image is available.")

    monkeypatch.setattr("device_checks.load", lacks)
    assert verify_device.main(arguments, lambda _: None) == 1
    text = report.read_text(encoding="utf-8")
    assert "| loading | FAILED | DeviceError: The device failed: no kernel image is" in text
    assert "| placement of nodes, decoder | FAILED |" in text  # it takes no nodes at all
    assert text.startswith("# NOT VERIFIED on 'AzureExecutionProvider': 2 of 2 checks failed")


def test_without_the_device_it_fails(
    verify_device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_device, "_verify_all", lambda *_: None)
    assert verify_device.main(["--report", str(tmp_path / "r.md")], lambda _: None) == 1
