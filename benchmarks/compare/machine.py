"""The machine as results describe it: what differs between machines, and nothing else."""

from __future__ import annotations

import platform
from fnmatch import fnmatchcase
from pathlib import Path

from edgeseq.runtime.ort.cpu import instructions, logical_cores, physical_cores, processor

CPU_INFO = Path("/proc/cpuinfo")
# Instruction sets that kernels choose by: of x86, then of ARM.
FLAGS = ("avx", "avx2", "fma", "f16c", "avx_vnni*", "avx512*", "amx_*", "asimd*", "i8mm", "sve*")


def describe_machine() -> dict[str, str]:
    """Return the processor's name, its family and model, its cores and its instruction sets."""
    described = {"processor": processor()}
    if numbers := family_and_model():
        described["family/model"] = numbers
    described["cores"] = f"{physical_cores()} ({logical_cores()} logical)"
    described["instructions"] = " ".join(known_flags(instructions()))
    return {name: value or platform.machine() for name, value in described.items()}


def known_flags(flags: str) -> list[str]:
    """Return those of ``flags``, separated by spaces, that kernels choose by."""
    return [flag for flag in flags.split() if any(fnmatchcase(flag, p) for p in FLAGS)]


def family_and_model(path: Path = CPU_INFO) -> str:
    """Return the numbers that x86 processors are told apart by, such as "25/1"; elsewhere ""."""
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    found = [fields[name] for name in ("cpu family", "model") if name in fields]
    return "/".join(found)
