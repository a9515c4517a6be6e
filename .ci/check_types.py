"""Check the types of the project with mypy, whether or not it is installed.

The folders of `PACKAGES` are the package `edgeseq` only once installed, and mypy does not follow an
editable install's import hook. So they are copied as `edgeseq/...` into a temporary folder, with
the other files to check, and mypy runs there. Its messages name the files as they are in the
repository. mypy runs once for each system, because code for Windows and macOS is not checked on
Linux otherwise; benchmarks are checked for Linux alone.

    python .ci/check_types.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("batch", "cli", "export", "quantize", "runtime", "serving", "training")
ALONGSIDE = ("benchmarks", "tests/usage_typing.py")
SYSTEMS = ("linux", "win32", "darwin")


def main() -> int:
    """Return mypy's exit status, the largest of all systems."""
    with tempfile.TemporaryDirectory() as folder:
        copy_sources(Path(folder))
        with ThreadPoolExecutor(2) as pool:
            done = [*pool.map(lambda system: run_mypy(Path(folder), system), SYSTEMS)]
    for system, result in zip(SYSTEMS, done, strict=True):
        for line in result.stdout.splitlines():
            print(f"{system}: {line.removeprefix(f'edgeseq{os.sep}')}")
    return max(result.returncode for result in done)


def copy_sources(folder: Path) -> None:
    """Copy what mypy checks; times are kept, so that its cache stays good."""
    for package in PACKAGES:
        copy_python(ROOT / package, folder / "edgeseq" / package)
    for name in ALONGSIDE:
        copy_python(ROOT / name, folder / name)


def copy_python(source: Path, target: Path) -> None:
    """Copy one file, or the Python files of one folder."""
    files = [source] if source.is_file() else [*source.rglob("*.py"), *source.rglob("py.typed")]
    for file in files:
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)


def run_mypy(folder: Path, system: str) -> subprocess.CompletedProcess[str]:
    """Run mypy in the folder for one system, with a cache of its own."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--platform", system, "--cache-dir", str(ROOT / ".mypy_cache" / system)]
    # Benchmarks measure with what only Linux has; the package runs everywhere.
    checked = [*ALONGSIDE] if system == "linux" else [name for name in ALONGSIDE if "/" in name]
    return subprocess.run(
        [*command, "edgeseq", *checked],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
