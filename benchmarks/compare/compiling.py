"""Packages that are compiled here: once, for every environment of a program."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from benchmarks.compare.commands import run_command
from benchmarks.compare.peers import OURS, REPOSITORY, Compiled
from edgeseq.runtime.ort.cpu import instructions

PACKAGES = ("cli", "export", "quantize", "runtime", "serving", "training")
SOURCES = ("pyproject.toml", "setup.py", *PACKAGES)
LIBRARIES = (".pyc", ".so", ".dylib", ".dll")  # left by an earlier build: no sources


def compiled_folder(wanted: Compiled, folder: Path) -> Path:
    """Return where in ``folder`` the wheel of ``wanted`` is: a name for each way to compile it."""
    if wanted.package == "{repository}":
        name, state = "repository", sources_state()
    else:
        name, state = wanted.package, ""
    options = cmake_options(wanted.cpu_options, instructions().split())
    ways = json.dumps([dict(wanted.variables), options, platform.machine(), state])
    return folder / f"{name}-{hashlib.sha256(ways.encode()).hexdigest()[:12]}"


def compile_package(wanted: Compiled, folder: Path, python: str) -> None:
    """Make the wheel of ``wanted`` in ``folder``, with the pip of ``python``.

    A source distribution from an index stays beside the wheel.
    """
    name = wanted.package.format(repository=OURS)
    print(f"compiling {name}", flush=True)
    failure = f"could not compile {name}"
    variables = {**os.environ, **variables_of(wanted)}
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    pip = [python, "-m", "pip"]
    # pip's own cache does not know the variables that a wheel was compiled with.
    plainly = ["--quiet", "--no-deps", "--no-cache-dir"]
    source = wanted.package.format(repository=REPOSITORY)
    if source == wanted.package:
        only_source = ["--no-binary", source.partition("==")[0]]
        run_command([*pip, "download", *plainly, *only_source, source], failure, variables, part)
        (archive,) = part.glob("*.tar.gz")
        source = os.fspath(archive)
    run_command([*pip, "wheel", *plainly, source], failure, variables, part)
    part.rename(folder)


def wheel_in(folder: Path) -> Path:
    """Return the wheel that ``compile_package`` made."""
    (wheel,) = folder.glob("*.whl")
    return wheel


def variables_of(wanted: Compiled) -> dict[str, str]:
    """Return the environment variables to compile with, CMake's options included."""
    cores = str(os.cpu_count() or 1)
    options = " ".join(cmake_options(wanted.cpu_options, instructions().split()))
    places = {"cores": cores, "cpu_options": options, "folder": wanted.folder}
    return {name: value.format(**places) for name, value in wanted.variables.items()}


def cmake_options(options: Mapping[str, str], flags: Collection[str]) -> list[str]:
    """Return ``options`` (names to flags of x86 in ``/proc/cpuinfo``), each on or off.

    The system lists what programs may use. Compilers that ask the processor itself may find more:
    behind a hypervisor, an instruction that ends the program. Without x86 flags the list is empty,
    and CMake's defaults hold.
    """
    if "sse2" not in flags:
        return []
    return [
        f"-D{name}={'ON' if set(needed.split()) <= set(flags) else 'OFF'}"
        for name, needed in options.items()
    ]


def sources_state() -> str:
    """Return a hash that changes with every source file of edgeseq."""
    digest = hashlib.sha256()
    for name in SOURCES:
        path = REPOSITORY / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix not in LIBRARIES:
                digest.update(file.relative_to(REPOSITORY).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
