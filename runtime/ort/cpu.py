"""How many threads compute where nobody says: the physical cores that this process may use.

ONNX Runtime's own default counts the machine's, and ties threads to them. A process that is kept to
some cores, or a container with a quota of processor time, would have more threads than it may run,
and they wait for each other.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Collection, Iterator
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
GROUPS = Path("/proc/self/cgroup")
GROUP_FILES = Path("/sys/fs/cgroup")


def physical_cores(cpus: Collection[int] | None = None) -> int:
    """Cores, each counted once however many threads it runs; outside Linux the logical ones.

    ``cpus``: the numbers of the logical ones that count; None: all.
    """
    cores = {
        file.read_text().strip()  # the numbers of a core's threads; its own are not unique on ARM
        for file in CPUS.glob("cpu[0-9]*/topology/thread_siblings_list")
        if cpus is None or int(file.parts[-3].removeprefix("cpu")) in cpus
    }
    return len(cores) or (logical_cores() if cpus is None else len(cpus))


def logical_cores() -> int:
    """What the system counts as processors."""
    return os.cpu_count() or 1


def usable_cores() -> int:
    """The physical cores that this process may use, whole ones: at least 1."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return max(1, min([physical_cores(affinity), *map(math.floor, _quotas())]))


def _quotas() -> Iterator[float]:
    """Processors' worth of time that the control groups around this process are given (Linux)."""
    try:
        lines = GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # another system, or one that does not tell
    for line in lines:
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Within a container the group's own name may be that outside of it: then only the files
        # at the top are there, and they are this group's.
        root = GROUP_FILES / controllers
        if not root.is_dir():  # the list's order may be another
            root = GROUP_FILES / "cpu"
        folder = root if ".." in group else root / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_dir():
                yield from _quota(place, is_unified=not controllers)
            if place == root:
                break


def _quota(place: Path, *, is_unified: bool) -> Iterator[float]:
    names = ("cpu.max",) if is_unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        words = " ".join((place / name).read_text(encoding="utf-8") for name in names).split()
    except OSError:
        return  # no group has its files here, or they are not for us
    if len(words) == 2 and all(map(str.isdecimal, words)):  # else "max" or -1
        yield int(words[0]) / int(words[1])


CPU_INFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The processor's name, or its architecture where the system gives no name."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """What the processor can do, or its architecture where the system does not say."""
    return " ".join(sorted(_cpu_field("flags", "Features").split())) or platform.machine()


def _cpu_field(*names: str) -> str:
    """What Linux says of the first processor under one of ``names``; empty where it does not."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            field, _, value = line.partition(":")
            if field.strip() in names:
                return value.strip()
    return ""


def system() -> str:
    """The operating system and the architecture."""
    return f"{platform.system()} {platform.machine()}"
