"""The processor: its cores, the cores that this process may use, its name and instructions.

The default number of threads is ``usable_cores()``. ONNX Runtime's own default is the number of the
machine's cores, and it ties threads to cores. A process that is restricted to some cores, or a
container with a quota of processor time, would then have more threads than it can run at once, and
these threads would wait for each other.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from numbers import Integral
from pathlib import Path
from typing import Any

from ..errors import OptionError

MAX_THREADS = 1024
CPUS = Path("/sys/devices/system/cpu")
GROUPS = Path("/proc/self/cgroup")
GROUP_FILES = Path("/sys/fs/cgroup")


def thread_count(threads: Any) -> int:
    """Return ``threads`` as an int, or ``usable_cores()`` for None.

    Raises ``OptionError`` if ``threads`` is not an integer from 1 to ``MAX_THREADS``.
    """
    if threads is None:
        return usable_cores()
    if isinstance(threads, bool) or not isinstance(threads, Integral):
        raise OptionError(
            f"threads is {threads!r}; it must be an integer or None (all usable cores)."
        )
    if not 1 <= (count := int(threads)) <= MAX_THREADS:
        raise OptionError(f"threads is {threads}; it must be an integer from 1 to {MAX_THREADS}.")
    return count


def physical_cores(cpus: Collection[int] | None = None) -> int:
    """Return the number of physical cores; outside Linux, the number of logical cores.

    ``cpus``: the numbers of the logical cores to count; None: all.
    """
    cores = {
        file.read_text().strip()  # ids of a core's threads; on ARM, core ids are not unique
        for file in CPUS.glob("cpu[0-9]*/topology/thread_siblings_list")
        if cpus is None or int(file.parts[-3].removeprefix("cpu")) in cpus
    }
    return len(cores) or (logical_cores() if cpus is None else len(cpus))


def logical_cores() -> int:
    """Return the number of processors that the system reports: at least 1."""
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Return how many whole physical cores this process may use: at least 1."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return max(1, min([physical_cores(affinity), *map(math.floor, _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield the processor quota, in processors, of each control group of this process (Linux)."""
    try:
        lines = GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # not Linux, or not readable
    for line in lines:
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container, the group's name may be its name outside the container. Then only the
        # files at the top exist, and they belong to this group.
        root = GROUP_FILES / controllers
        if not root.is_dir():  # controllers may be listed in another order
            root = GROUP_FILES / "cpu"
        folder = root if ".." in group else root / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_dir():
                yield from _quota(place, is_unified=not controllers)
            if place == root:
                break


def _quota(place: Path, *, is_unified: bool) -> Iterator[float]:
    """Yield the quota of the group at ``place``, in processors, if it has one.

    ``is_unified``: whether the group is of version 2 of control groups.
    """
    names = ("cpu.max",) if is_unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        words = " ".join((place / name).read_text(encoding="utf-8") for name in names).split()
    except OSError:
        return  # not a group with a quota, or not readable
    if len(words) == 2 and all(map(str.isdecimal, words)):  # else "max" or -1
        yield int(words[0]) / int(words[1])


CPU_INFO = Path("/proc/cpuinfo")


def processor() -> str:
    """Return the processor's name, or its architecture if the system gives no name."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Return the processor's instruction sets, or its architecture if they are unknown."""
    return " ".join(sorted(_cpu_field("flags", "Features").split())) or platform.machine()


# Instruction sets that kernels choose by: of x86, then of ARM.
FLAGS = ("avx", "avx2", "fma", "f16c", "avx_vnni*", "avx512*", "amx_*", "asimd*", "i8mm", "sve*")


def known_flags(flags: str) -> list[str]:
    """Return those of ``flags``, separated by spaces, that kernels choose by."""
    return [flag for flag in flags.split() if any(fnmatchcase(flag, p) for p in FLAGS)]


def _cpu_field(*names: str) -> str:
    """Return the value of the first field of ``/proc/cpuinfo`` with one of ``names``, or ""."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            field, _, value = line.partition(":")
            if field.strip() in names:
                return value.strip()
    return ""


def system() -> str:
    """Return the operating system and the architecture."""
    return f"{platform.system()} {platform.machine()}"
