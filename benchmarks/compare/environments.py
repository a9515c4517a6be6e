"""One environment a program, and one a tool that converts models: made once, kept by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.compare.peers import REPOSITORY, Environment

DONE = "installed.json"  # in an environment: what was installed, written last
INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack")


def make_environment(folder: Path, wanted: Environment) -> None:
    """Install ``wanted`` in ``folder`` unless it is there; what is there otherwise is replaced."""
    record = json.dumps(asdict(wanted), default=dict)
    if (folder / DONE).exists() and (folder / DONE).read_text() == record:
        return
    print(f"installing {folder.name}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    variables = {**os.environ, **wanted.variables}
    if wanted.packages:
        venv.create(folder, with_pip=True)
        packages = [package.format(repository=REPOSITORY) for package in wanted.packages]
        _run([python_of(folder), "-m", "pip", "install", "--quiet", *packages], folder, variables)
    if wanted.npm:
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is needed for this program: install Node.js")
        _run([npm, "install", "--silent", "--no-audit", *wanted.npm], folder, variables)
    (folder / DONE).write_text(record)


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


def _run(command: list[str], folder: Path, variables: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, check=False, cwd=folder, env=variables, capture_output=True, text=True
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        sys.exit(f"Could not install {folder.name}:\n{tail}")
