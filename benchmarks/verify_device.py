"""Whether bundles compute on a device what they compute on the CPU, and how fast: one report.

    python benchmarks/verify_device.py --device cuda --report report.md

Bundles in 16, 8 and 4 bits are made of the demo models (extras `export` and `quantize`) or of the
float32 bundles that are given. For each: which nodes run where, logits beside the CPU's and beside
float32's, texts by every way to generate, a row alone and in a batch, memory over many generations,
tokens a second. Where the device is not there, a stand-in takes its place (the CPU, with a cache
that Python cannot reach), and the report says so in its first line. Exit status 1 where a check
fails.
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
from edgeseq.runtime.devices import AUTO, CPU, parse_device
from edgeseq.runtime.onnx_runtime import open_session, runtime_version

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("fp16", "int8-weights", "int4")


def find_target(name: str) -> Target:
    """The device of a name, or the CPU in its place where it is not there."""
    device = parse_device(name)
    if device.provider == CPU:
        return Target(device, is_stand_in=True)
    try:
        open_session(ROOT / "runtime/graphs/copy_float16.onnx", device, 1)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return Target(parse_device("cpu"), is_stand_in=True)
    return Target(device, is_stand_in=False)


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
    """Verify, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", type=Path, help="float32 bundles (default: demos)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--report", type=Path, default=Path("device_report.md"))
    given = parser.parse_args(arguments)
    if given.device == AUTO:
        parser.error("argument --device: name the device to verify")
    target = find_target(given.device)
    where = f"ONNX Runtime {runtime_version()}, {', '.join(_gpus()) or 'no NVIDIA GPU'}"
    head = f"# {given.device} verified\n\n{where}."
    if target.is_stand_in:
        head = (
            f"# NOT VERIFIED on {given.device!r}: the CPU stood in for it\n\n{where}. The device "
            "is not there. What follows shows that the checks run to their end, and that the "
            "graphs for the device and its way of handling memory compute what they should."
        )
    report = Report(head)
    try:
        _verify_all(report, given.bundles, target)
    finally:  # whatever ended it
        given.report.write_text(report.markdown(), encoding="utf-8")
        given.report.with_suffix(".json").write_text(
            json.dumps({"stand_in": target.is_stand_in, "checks": report.checks}, indent=1) + "\n"
        )
    say(f"{report.failed} checks failed; wrote {given.report}. {head.splitlines()[0][2:]}")
    return 1 if report.failed else 0


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
