"""Verify that bundles compute the same on a device as on the CPU, and write a report.

    python benchmarks/verify_device.py --device cuda --report report.md

Quantizes the demo models (extras `export` and `quantize`), or the given float32 bundles, to 16, 8
and 4 bits. Checks for each bundle: the provider of each node; logits compared with the CPU's and
with float32's; texts of every strategy; logits of a row alone and in a batch; memory over many
generations; throughput.

If the device is not available, the CPU stands in for it, with a KV cache that Python reaches by
address only, and the report's first line says so. The exit status is 1 if a check fails, or if the
device is not available and `--stand-in` is not given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from device_checks import Report, Target, verify

from edgeseq.quantize import quantize_bundle
from edgeseq.runtime import DeviceError
from edgeseq.runtime.ort.devices import AUTO, CPU, parse_device
from edgeseq.runtime.ort.graph_session import open_session, runtime_version

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("fp16", "int8-weights", "int4")
OF_A_STAND_IN = (
    "What follows shows that the checks run to their end, and that the graphs for the device and "
    "its way of handling memory compute what they should."
)


def find_target(name: str) -> tuple[Target, str]:
    """Return the device, or the CPU as its stand-in and the reason for that."""
    device = parse_device(name)
    if device.provider == CPU:
        return Target(device, is_stand_in=True), "The CPU is what others are verified by."
    try:
        open_session(ROOT / "runtime/ort/graphs/copy_float16.onnx", device, 1)
    except DeviceError as error:
        return Target(parse_device("cpu"), is_stand_in=True), str(error)
    return Target(device, is_stand_in=False), ""


def _float32_bundles(given: Sequence[Path], folder: Path) -> dict[str, Path]:
    if given:
        return {path.name: path for path in given}
    from edgeseq.export import export_checkpoint  # late: torch

    made = {}
    for name in ("gpt2", "t5"):
        checkpoint = ROOT / "demos" / name / "checkpoint"
        made[f"demo {name}"] = export_checkpoint(checkpoint, folder / name).folder
    return made


def main(arguments: Sequence[str] | None = None, say: Callable[[str], Any] = print) -> int:
    """Verify and write the report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", type=Path, help="float32 bundles (default: demos)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--stand-in", action="store_true", help="exit status 0 without the device")
    parser.add_argument("--report", type=Path, default=Path("device_report.md"))
    given = parser.parse_args(arguments)
    if given.device == AUTO:
        parser.error("argument --device: name the device to verify")
    target, why = find_target(given.device)
    report = Report()
    is_complete = False
    try:
        _verify_all(report, given.bundles, target)
        is_complete = True
    finally:  # also after an error
        title = _title(given.device, report, is_complete, target)
        where = f"ONNX Runtime {runtime_version()}, {', '.join(_gpus()) or 'no NVIDIA GPU'}."
        about = f"{where} {why} {OF_A_STAND_IN}" if target.is_stand_in else where
        head = f"# {title}\n\n{about}"
        given.report.write_text(report.markdown(head), encoding="utf-8")
        given.report.with_suffix(".json").write_text(
            json.dumps({"stand_in": target.is_stand_in, "checks": report.checks}, indent=1) + "\n"
        )
    say(f"{report.failed} checks failed; wrote {given.report}. {title}")
    return 1 if report.failed or (target.is_stand_in and not given.stand_in) else 0


def _title(device: str, report: Report, is_complete: bool, target: Target) -> str:
    if target.is_stand_in:
        return f"NOT VERIFIED on {device!r}: the CPU stood in for it"
    if report.failed or not is_complete:
        return f"NOT VERIFIED on {device!r}: {report.failed} of {len(report.checks)} checks failed"
    return f"{device} verified"


def _verify_all(report: Report, given: Sequence[Path], target: Target) -> None:
    with TemporaryDirectory(prefix="edgeseq-") as name:
        for label, folder in _float32_bundles(given, Path(name)).items():
            for recipe in RECIPES:
                out = Path(name) / f"{folder.name}-{recipe}"
                quantize_bundle(folder, out, recipe=recipe, allow_loss=True)
                verify(report, f"{label} {recipe}", out, folder, target)


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main())
