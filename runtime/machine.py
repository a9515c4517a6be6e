"""The machine that something is measured on: what it is, and how much of it others use."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
STAT = Path("/proc/stat")
IDLE = (3, 4)  # places in /proc/stat's line of ticks: idle, and idle while waiting for a disk
GUESTS = 8  # from this place on the ticks are counted before too


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


class OthersClock:
    """From its making on, the share of the machine's processors that other programs used."""

    def __init__(self) -> None:
        self._ticks = _machine_ticks()
        self._own_s = _own_s()

    def share(self) -> float | None:
        """0 to 1, time that a host took from a virtual machine included; None outside Linux.

        This process and those children that it waited for are not others.
        """
        if self._ticks is None or (now := _machine_ticks()) is None:
            return None
        busy, total = (new - old for new, old in zip(now, self._ticks, strict=True))
        if total <= 0:
            return None
        own = (_own_s() - self._own_s) * os.sysconf("SC_CLK_TCK")
        return max(0.0, busy - own) / total


def _machine_ticks() -> tuple[int, int] | None:
    """The ticks of all processors since the machine started: busy ones, and all."""
    if sys.platform != "linux":
        return None
    name, *ticks = STAT.read_text(encoding="utf-8").splitlines()[0].split()
    if name != "cpu":
        return None
    counts = [int(tick) for tick in ticks[:GUESTS]]
    return sum(counts) - sum(counts[place] for place in IDLE), sum(counts)


def _own_s() -> float:
    """Processor seconds of this process and of the children that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
