"""The machine as results describe it: what differs between machines, and nothing else."""

from __future__ import annotations

import platform
from pathlib import Path

from edgeseq.runtime.ort.cpu import (
    instructions,
    known_flags,
    logical_cores,
    physical_cores,
    processor,
)

CPU_INFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, str]:
    """Return the processor's name, its family and model, its cores and its instruction sets."""
    described = {"processor": processor()}
    if numbers := family_and_model():
        described["family/model"] = numbers
    described["cores"] = f"{physical_cores()} ({logical_cores()} logical)"
    described["instructions"] = " ".join(known_flags(instructions()))
    return {name: value or platform.machine() for name, value in described.items()}


def family_and_model(path: Path = CPU_INFO) -> str:
    """Return the numbers that x86 processors are told apart by, such as "25/1"; elsewhere ""."""
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    found = [fields[name] for name in ("cpu family", "model") if name in fields]
    return "/".join(found)
