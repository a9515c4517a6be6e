"""Limits of a process: memory, files, user, network; each is applied in the new process."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20
SECURE_BITS, NO_ROOT, CAPABILITY_VERSION = 28, 3, 0x20080522  # of prctl and capset
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine())  # the system call
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN, KILL, ALLOW = 0x20, 0x15, 0x06, 0x80000000, 0x7FFF0000
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # of prctl
PAGE = 4096


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("true", ctypes.c_uint8),
        ("false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def kill_at_socket() -> None:
    """Let the system kill this process and its children with SIGSYS if they open a socket.

    That includes native code. Raises ``OSError`` if such filters are not allowed here.
    """
    if SOCKET is None:
        raise OSError("Filters are only known for x86_64 and aarch64.")
    instructions = (_Instruction * 4)(
        _Instruction(LOAD_NUMBER, 0, 0, 0),
        _Instruction(JUMP_IF_EQUAL, 0, 1, SOCKET),
        _Instruction(RETURN, 0, 0, KILL),
        _Instruction(RETURN, 0, 0, ALLOW),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(4, instructions)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(
        SECCOMP, FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "Filters are not allowed here")


def without_network() -> None:
    """Put this process into a network namespace without any interface; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def more_memory(mebibytes: int) -> None:
    """Limit the address space to what this process has now, and ``mebibytes`` more."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = pages * PAGE + mebibytes * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def memory(mebibytes: int) -> None:
    """Limit the address space."""
    resource.setrlimit(resource.RLIMIT_AS, (mebibytes * MIB, mebibytes * MIB))


def small_files(size: int) -> None:
    """Let the system refuse files above ``size`` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class _Capabilities(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


def without_privileges() -> None:
    """Give up all that root may do more than other users, also for programs that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = _CapabilityHeader(CAPABILITY_VERSION, 0)
    nothing = (_Capabilities * 2)()
    if libc.prctl(SECURE_BITS, NO_ROOT, 0, 0, 0) or libc.capset(ctypes.byref(header), nothing):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def can_mount() -> bool:
    """Return whether this process may mount file systems."""
    try:
        with small_disk(Path("/mnt"), MIB):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount an empty disk of ``size`` bytes at ``folder`` in the block."""
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make ``folder`` read-only in the block, also for root."""
    _mount("--bind", folder, folder)
    try:
        _mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, stderr=subprocess.PIPE)


def fill(disk: Path) -> Path:
    """Fill a disk to its last page, as another program would; return the file that fills it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (MIB, PAGE, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return filler
