"""One environment a program, and one a tool that converts models: made once, kept by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.compare.peers import REPOSITORY, Environment

DONE = "installed.json"  # in an environment: what was installed, written last
INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack")


def make_environment(folder: Path, wanted: Environment) -> None:
    """Install ``wanted`` in ``folder`` unless it is there; what is there otherwise is replaced.

    What comes from this repository is installed again whenever its sources changed.
    """
    record = {"wanted": json.loads(json.dumps(asdict(wanted), default=dict)), "sources": None}
    ours = [package for package in wanted.packages if "{repository}" in package]
    if ours:
        record["sources"] = _sources_state()
    found = json.loads((folder / DONE).read_text()) if (folder / DONE).exists() else {}
    if found == record:
        return
    print(f"installing {folder.name}", flush=True)
    variables = {**os.environ, **wanted.variables}
    failure = f"Could not install {folder.name}"
    pip = [python_of(folder), "-m", "pip", "install", "--quiet"]
    if found.get("wanted") == record["wanted"]:
        again = [package.format(repository=REPOSITORY) for package in ours]
        run_or_exit([*pip, "--force-reinstall", "--no-deps", *again], failure, variables, folder)
        (folder / DONE).write_text(json.dumps(record))
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if wanted.packages:
        venv.create(folder, with_pip=True)
        packages = [package.format(repository=REPOSITORY) for package in wanted.packages]
        run_or_exit([*pip, *packages], failure, variables, folder)
    if wanted.npm:
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is needed for this program: install Node.js")
        install = [npm, "install", "--silent", "--no-audit", *wanted.npm]
        run_or_exit(install, failure, variables, folder)
    (folder / DONE).write_text(json.dumps(record))


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


def _sources_state() -> str:
    """What changes with every file of the package."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "export", "quantize", "runtime"):
        path = REPOSITORY / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.relative_to(REPOSITORY).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def run_or_exit(
    command: Sequence[str], failure: str, variables: Mapping[str, str], folder: Path | None = None
) -> None:
    """Run ``command`` in ``folder``; where it fails, exit with ``failure`` and its last lines."""
    done = subprocess.run(
        command, check=False, cwd=folder, env=variables, capture_output=True, text=True
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        sys.exit(f"{failure}:\n{tail}")
