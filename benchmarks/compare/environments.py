"""One environment a program, and one a tool that converts models: made once, kept by name."""

from __future__ import annotations

import json
import os
import shutil
import venv
from pathlib import Path
from typing import Any

from benchmarks.compare.commands import SetupError, run_command
from benchmarks.compare.compiling import compile_package, compiled_folder, wheel_in
from benchmarks.compare.peers import Environment

DONE = "installed.json"  # in an environment: what was installed, written last
INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack")


def make_environment(folder: Path, wanted: Environment, wheels: Path) -> None:
    """Install ``wanted`` in ``folder`` unless it is there; what is there otherwise is replaced.

    ``wheels``: the folder of packages that are compiled here. If only such a package has changed,
    as edgeseq does with its sources, only that package is installed again.
    """
    compiled = compiled_folder(wanted.compiled, wheels) if wanted.compiled else None
    record: dict[str, Any] = {
        "packages": list(wanted.packages),
        "npm": list(wanted.npm),
        "variables": dict(wanted.variables),
        "compiled": compiled and compiled.name,
    }
    found = json.loads((folder / DONE).read_text()) if (folder / DONE).exists() else {}
    if found == record:
        return
    is_update = {**found, "compiled": None} == {**record, "compiled": None}
    if not is_update:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if wanted.packages:
            venv.create(folder, with_pip=True)
    if wanted.compiled and compiled and not compiled.exists():
        compile_package(wanted.compiled, compiled, python_of(folder))
    print(f"installing {folder.name}", flush=True)
    wheel = os.fspath(wheel_in(compiled)) if compiled else ""
    if is_update:
        install_packages(folder, ["--force-reinstall", "--no-deps", wheel], wanted)
    elif wanted.packages:
        packages = [package.format(compiled=wheel) for package in wanted.packages]
        install_packages(folder, packages, wanted)
    if wanted.npm:
        install_npm(folder, wanted)
    (folder / DONE).write_text(json.dumps(record))


def install_packages(folder: Path, arguments: list[str], wanted: Environment) -> None:
    """Install with the pip of ``folder``."""
    command = [python_of(folder), "-m", "pip", "install", "--quiet", *arguments]
    failure = f"could not install {folder.name}"
    run_command(command, failure, {**os.environ, **wanted.variables}, folder)


def install_npm(folder: Path, wanted: Environment) -> None:
    """Install with npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise SetupError(f"could not install {folder.name}: it needs npm, so install Node.js")
    command = [npm, "install", "--silent", "--no-audit", *wanted.npm]
    failure = f"could not install {folder.name}"
    run_command(command, failure, {**os.environ, **wanted.variables}, folder)


def python_of(folder: Path) -> str:
    """The Python of a virtual environment."""
    return os.fspath(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def packages_of(folder: Path) -> list[Path]:
    """The folders that hold what is installed in an environment."""
    return [*folder.glob("lib/python*/site-packages"), *folder.glob("node_modules")]


def installed_mb(folder: Path) -> float:
    """Megabytes (10^6 bytes) of files in an environment, without those that install others."""
    total = 0
    for packages in packages_of(folder):
        for path in packages.rglob("*"):
            first = path.relative_to(packages).parts[0]
            if not first.startswith(INSTALLERS) and path.is_file() and not path.is_symlink():
                total += path.stat().st_size
    return total * 1e-6
