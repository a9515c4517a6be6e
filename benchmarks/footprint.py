"""Measure the installed size and the import time of the runtime.

    python benchmarks/footprint.py

Builds the wheel, installs it with its `cpu` extra into a fresh environment in a temporary folder
and measures there. The last line is one JSON object.

A size is the sum of file lengths, compiled bytecode included, in MB of 10^6 bytes. One size counts
all that pip installs. The other leaves out huggingface_hub and the packages that only it needs,
because an app that ships its own environment can leave them out. Each import is timed in a fresh
process. The modules take turns, so that a disturbance affects all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "cli",
    "export",
    "quantize",
    "runtime",
    "serving",
    "training",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
INSTALLERS = {"pip", "setuptools", "wheel"}
BASELINE = "onnxruntime"
MEASURED = "edgeseq.runtime.ort.engine"  # all that generation imports, onnxruntime included
MODULES = (BASELINE, MEASURED, "edgeseq.runtime")  # the last imports onnxruntime in `load` only
UNUSED = "huggingface-hub"  # tokenizers asks for it; edgeseq.runtime never imports it
MIN_ROUNDS = 11


def main() -> None:
    """Measure, and print a table and the JSON object."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = arguments.wheel or build_wheel(folder)
        python = make_environment(folder / "environment", wheel)
        sizes = installed_sizes(site_packages(python))
        needed = needed_names(site_packages(python))
        times = import_times(python, arguments.rounds, folder)
    report = {"machine": describe_machine(), **size_report(sizes, needed), **time_report(times)}
    print_sizes(sizes, needed)
    print_times(times)
    print(json.dumps(report))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Installed size and import time of the runtime.")
    parser.add_argument("--rounds", type=int, default=21, help="fresh processes for each import")
    parser.add_argument("--wheel", type=Path, help="a wheel to install instead of building one")
    arguments = parser.parse_args()
    if arguments.rounds < MIN_ROUNDS:
        parser.error(f"--rounds is {arguments.rounds}; give at least {MIN_ROUNDS}")
    if arguments.wheel and not arguments.wheel.is_file():
        parser.error(f"--wheel {arguments.wheel} is not a file")
    return arguments


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, because an old `build/` would leak into it."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    return next(folder.glob("*.whl"))


def make_environment(folder: Path, wheel: Path) -> Path:
    """Install the wheel with its `cpu` extra in a fresh environment and return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "install", "--quiet", f"{wheel.resolve()}[cpu]")
    return python


def site_packages(python: Path) -> Path:
    """Return the folder of the packages that are installed for ``python``."""
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())


def installed_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each distribution, the largest first, without the installers."""
    sizes = {
        distribution.metadata["Name"]: size_bytes(distribution)
        for distribution in distributions(path=[str(folder)])
        if distribution.metadata["Name"] not in INSTALLERS
    }
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def needed_names(folder: Path) -> set[str]:
    """Return the distributions that edgeseq and onnxruntime require, without ``UNUSED``."""
    found = {normalized(d.metadata["Name"]): d for d in distributions(path=[str(folder)])}
    needed: set[str] = set()
    waiting = ["edgeseq", "onnxruntime"]
    while waiting:
        name = waiting.pop()
        if name in needed or name not in found or name == UNUSED:
            continue
        needed.add(name)
        plain = [r for r in found[name].requires or [] if "extra ==" not in r]
        waiting += [normalized(re.split(r"[^\w.-]", r, maxsplit=1)[0]) for r in plain]
    return needed


def normalized(name: str) -> str:
    """Return a distribution's normalized name, for comparisons."""
    return re.sub(r"[-_.]+", "-", name).lower()


def size_bytes(distribution: Distribution) -> int:
    """Return the size of a distribution's files, compiled bytecode and scripts included."""
    paths = {Path(str(distribution.locate_file(file))) for file in distribution.files or []}
    return sum(path.stat().st_size for path in paths if path.is_file())


def import_times(python: Path, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Return the seconds of each module's import in each round, after one warm-up round."""
    times: dict[str, list[float]] = {module: [] for module in MODULES}
    for number in range(rounds + 1):
        for module in MODULES if number % 2 else reversed(MODULES):
            seconds = import_time(python, module, folder)
            if number:
                times[module].append(seconds)
    return times


def import_time(python: Path, module: str, folder: Path) -> float:
    """Return the seconds of an import in a fresh process."""
    code = (
        "import time; start = time.perf_counter(); "
        f"import {module}; print(time.perf_counter() - start)"
    )
    return float(run(python, "-I", "-c", code, cwd=folder))


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and return its standard output; its standard error is shown."""
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def describe_machine() -> dict[str, str | int | None]:
    """Return a description of the machine."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def needed_bytes(sizes: dict[str, int], needed: set[str]) -> int:
    """Return the size of the distributions in ``needed``."""
    return sum(size for name, size in sizes.items() if normalized(name) in needed)


def size_report(sizes: dict[str, int], needed: set[str]) -> dict[str, object]:
    """Return the sizes in MB."""
    return {
        "installed_mb": megabytes(sum(sizes.values())),
        "needed_mb": megabytes(needed_bytes(sizes, needed)),
        "distributions_mb": {name: megabytes(size) for name, size in sizes.items()},
    }


def time_report(times: dict[str, list[float]]) -> dict[str, object]:
    """Return the spread of each import in ms, and of the difference to onnxruntime's by round."""
    pairs = zip(times[MEASURED], times[BASELINE], strict=True)
    return {
        "rounds": len(times[MEASURED]),
        "import_ms": {module: spread_ms(values) for module, values in times.items()},
        "import_over_onnxruntime_ms": spread_ms([ours - theirs for ours, theirs in pairs]),
    }


def spread_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, the quartiles and the extremes in milliseconds."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    figures = {
        "median": middle,
        "quartile_1": low,
        "quartile_3": high,
        "min": min(seconds),
        "max": max(seconds),
    }
    return {name: round(value * 1000, 1) for name, value in figures.items()}


def megabytes(size: int) -> float:
    """Return a size in MB of 10^6 bytes."""
    return round(size / 1e6, 2)


def print_sizes(sizes: dict[str, int], needed: set[str]) -> None:
    """Print the table of sizes."""
    print("installed size, MB")
    rows = [*sizes.items(), ("total", sum(sizes.values()))]
    for name, size in [*rows, (f"without {UNUSED}", needed_bytes(sizes, needed))]:
        print(f"  {name:<28} {megabytes(size):>8.2f}")


def print_times(times: dict[str, list[float]]) -> None:
    """Print the table of import times."""
    print(f"import in a fresh process, ms, {len(times[MEASURED])} rounds")
    pairs = zip(times[MEASURED], times[BASELINE], strict=True)
    rows = {**times, "difference in a round": [ours - theirs for ours, theirs in pairs]}
    for name, values in rows.items():
        figures = spread_ms(values)
        quartiles = f"{figures['quartile_1']} to {figures['quartile_3']}"
        print(f"  {name:<28} {figures['median']:>8.1f}  (half of them {quartiles})")


if __name__ == "__main__":
    main()
