"""Check the types of the project with mypy, whether or not it is installed.

The folders of `PACKAGES` are the package `edgeseq` only once installed, and mypy does not follow an
editable install's import hook. So they are copied as `edgeseq/...` into a temporary folder, with
the other files to check, and mypy runs there. Its messages name the files as they are in the
repository.

    python .ci/check_types.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("batch", "cli", "export", "quantize", "runtime", "serving", "training")
ALONGSIDE = ("benchmarks", "tests/usage_typing.py")


def main() -> int:
    """Return mypy's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        copy_sources(Path(folder))
        return run_mypy(Path(folder))


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


def run_mypy(folder: Path) -> int:
    """Run mypy in the folder and print its messages."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), "edgeseq", *ALONGSIDE]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        print(line.removeprefix(f"edgeseq{os.sep}"))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
