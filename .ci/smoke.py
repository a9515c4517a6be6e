"""Try the installed wheel as a user would: without torch and away from the repository.

Run it with the Python of an environment that holds the wheel and its `cpu` extra only, in a
folder that has nothing to do with the project.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path

COMMAND = Path(sysconfig.get_path("scripts")) / "edgeseq"
HEAVY = ("torch", "transformers", "optimum", "onnx")


def main() -> None:
    """Run every check; the first that fails ends the script."""
    for check in (
        check_environment,
        check_packages,
        check_import,
        check_version,
        check_licences,
        check_kernels,
        check_generate,
        check_encoder_decoder,
        check_tasks,
        check_info,
        check_missing_extra,
    ):
        print(f"  {check.__doc__}", flush=True)
        check()


def check_environment() -> None:
    """No torch, transformers, optimum or onnx is installed here."""
    installed = [name for name in HEAVY if find_spec(name)]
    expect(not installed, f"installed: {installed}")


def check_packages() -> None:
    """The wheel holds every sub-package, its py.typed, and the server's page."""
    for name in ("batch", "cli", "export", "quantize", "runtime", "serving", "training"):
        marker = package_folder(name) / "py.typed"
        expect(marker.is_file(), f"missing: {marker}")
    for name in ("index.html", "style.css", "page.js", "icon.svg"):
        file = package_folder("serving") / "page" / name
        expect(file.is_file(), f"missing: {file}")


def check_import() -> None:
    """`import edgeseq.runtime` loads no heavy package."""
    code = "import sys, edgeseq.runtime; print(*{name.partition('.')[0] for name in sys.modules})"
    done = run(sys.executable, "-c", code)
    expect(done.returncode == 0, done.stderr)
    loaded = set(done.stdout.split()) & {*HEAVY, "huggingface_hub"}
    expect(not loaded, f"loaded: {loaded}")


def check_kernels() -> None:
    """The wheel holds the native kernels, unless there was no compiler."""
    libraries = list((package_folder("runtime") / "native").glob("edgeseq_kernels.*"))
    if not libraries:
        print("    built without kernels")
        return
    code = "from edgeseq.runtime.native.library import processor_kernels as k; print(k())"
    done = run(sys.executable, "-c", code)
    expect(done.returncode == 0, done.stderr)
    print(f"    kernels: {done.stdout.strip()}")


def check_version() -> None:
    """`edgeseq --version` prints the version."""
    done = run(COMMAND, "--version")
    expect(done.returncode == 0 and version("edgeseq") in done.stdout, str(done))


def check_licences() -> None:
    """The wheel holds the licences of all that is in it."""
    files = distribution("edgeseq").files or []
    names = {file.name for file in files if "licenses" in file.parts}
    expect(names == {"LICENSE", "NOTICE"}, f"licences: {names}")


def check_generate() -> None:
    """`edgeseq generate` prints text."""
    done = run(COMMAND, "generate", "Once upon a time,", "--max-new-tokens", "40")
    expect(done.returncode == 0 and bool(done.stdout.strip()), str(done))
    print(*(f"    | {line}" for line in done.stdout.splitlines()), sep="\n")


def check_encoder_decoder() -> None:
    """`edgeseq generate --demo t5` answers."""
    done = run(COMMAND, "generate", "--demo", "t5", "pronounce: table")
    expect(done.returncode == 0 and done.stdout.split() == ["T", "EY1", "B", "AH0", "L"], str(done))


def check_tasks() -> None:
    """`edgeseq tasks` lists the templates, and `edgeseq run` does one."""
    done = run(COMMAND, "tasks")
    expect(done.returncode == 0 and "summarization" in done.stdout, str(done))
    done = run(COMMAND, "run", "classification", "A fine tale.")
    expect(done.returncode == 0 and "positive" in done.stdout, str(done))


def check_info() -> None:
    """`edgeseq info BUNDLE --json` prints a JSON object."""
    manifests = sorted(package_folder("runtime").glob("bundle/demos/*/edgeseq.json"))
    expect(bool(manifests), "the wheel holds no demo bundle")
    for manifest in manifests:
        done = run(COMMAND, "info", manifest.parent, "--json")
        expect(done.returncode == 0, done.stderr)
        expect(isinstance(json.loads(done.stdout), dict), done.stdout)


def check_missing_extra() -> None:
    """`edgeseq export` without its extra is one sentence that names it."""
    done = run(COMMAND, "export", "no-such-checkpoint", "no-such-bundle")
    expect(done.returncode == 1, str(done))
    expect(len(done.stderr.splitlines()) == 1 and ",export]" in done.stderr, done.stderr)


def package_folder(name: str) -> Path:
    """Return the folder of `edgeseq.<name>` without importing it."""
    spec = find_spec(f"edgeseq.{name}")
    if spec is None or spec.origin is None:
        sys.exit(f"edgeseq.{name} is missing from the wheel")
    return Path(spec.origin).parent


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output captured."""
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, encoding="utf-8", check=False
    )


def expect(holds: bool, found: str) -> None:
    """End the script with what was found unless the condition holds."""
    if not holds:
        sys.exit(f"smoke test failed: {found}")


if __name__ == "__main__":
    main()
