"""The command ``edgeseq doctor``: describes the installation and tries it, for a bug report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from ..runtime.bundle.demo_bundles import DEMOS, demo_bundle
from ..runtime.errors import EdgeseqError, reason
from .flags import add_machine, machine_of

FROZEN = bool(getattr(sys, "frozen", False))
MODULES = ("onnxruntime", "numpy", "tokenizers")
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers")
SKIPPED_EXTRAS = {"cpu", "cuda", "dev", "docs"}  # PACKAGES shows the first two
REQUIREMENT = re.compile(r"([\w.-]+).*;.*\bextra == [\"']([\w-]+)[\"']")
# Instruction sets that edgeseq's kernels or ONNX Runtime's choose by; ARM's names after x86's.
CHOSEN_BY = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    *("avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "sve", "bf16"),
)
VARIABLES = re.compile(r"(EDGESEQ|ORT|OMP|OPENBLAS|MKL|CUDA|HF|XDG_CACHE)_|PYTHONUTF8$|LANG$")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
LABEL_WIDTH = 14
PROMPT = "Once upon a time,"
GREEDY = {"max_new_tokens": 5, "do_sample": False, "num_beams": 1, "num_return_sequences": 1}
DEMO_IDS = (438, 308, 259, 550, 868)  # " there was a great many"

Facts = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq doctor [--bundle BUNDLE] [options]"
    parser.description = (
        "Describe this installation and machine, and generate 5 tokens with the demo model and "
        "with a bundle. Paste the output into an issue: it holds no texts, and ~ instead of your "
        "home folder. The exit status is 1 if a model does not work."
    )
    parser.add_argument("--bundle", "-b", type=Path, help="try this bundle too")
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    machine = machine_of(arguments)
    facts: Facts = {}
    for name, value in _facts(machine["threads"]):
        facts[name] = _without_home(value)
        if not arguments.json:
            _print(name, facts[name])  # at once: a model may end the process
    models = {f"demo {DEMOS[0]}": demo_bundle(DEMOS[0])}
    if arguments.bundle is not None:
        models["bundle"] = arguments.bundle
    works = True
    for name, folder in models.items():
        found = _without_home(_tried(folder, machine, None if name == "bundle" else DEMO_IDS))
        works = works and found["works"]
        facts[name] = found
        if not arguments.json:
            _print(name, found)
    if arguments.json:
        print(json.dumps(facts, indent=2))
    return 0 if works else 1


def _facts(threads: int | None) -> Iterator[tuple[str, Any]]:
    """Yield what is known about the installation and the machine, with its names."""
    from ..runtime import __version__

    yield "edgeseq", f"{__version__}{' (frozen)' if FROZEN else ''}"
    implementation = platform.python_implementation()
    yield "Python", f"{platform.python_version()} ({implementation}{_environment()})"
    yield "system", " ".join([platform.platform(), *_in_container()])
    yield "packages", _packages()
    if not FROZEN:
        yield "extras", dict(_extras())
    yield "providers", _providers()
    from ..runtime.native.library import find_library, processor_kernels
    from ..runtime.ort.cpu import (
        instructions,
        logical_cores,
        physical_cores,
        processor,
        thread_count,
        usable_cores,
    )

    yield "processor", processor()
    has = instructions().split()
    yield "CPU flags", [flag for flag in CHOSEN_BY if flag in has]
    library = find_library()
    unused = "none for this processor" if library is not None else "not compiled"
    yield "native kernels", processor_kernels() or unused
    yield (
        "cores",
        {
            "logical": logical_cores(),
            "physical": physical_cores(),
            "usable": usable_cores(),
        },
    )
    yield "threads", _or_reason(lambda: thread_count(threads))
    if sys.platform != "win32" and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield "memory", f"{size / 1e9:.1f} GB"
    yield "caches", _caches()
    yield (
        "variables",
        {
            name: "(set)" if SECRET.search(name) else value
            for name, value in sorted(os.environ.items())
            if VARIABLES.match(name) and name != "ORT_DISABLE_TELEMETRY"  # edgeseq itself sets it
        },
    )


def _environment() -> str:
    return ", virtual environment" if sys.prefix != sys.base_prefix else ""


def _in_container() -> list[str]:
    return ["(container)"] if Path("/.dockerenv").exists() else []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> dict[str, str]:
    """Return the versions of the packages that generate; a frozen app has only the modules."""
    versions = {name: _version(name) for name in PACKAGES}
    if FROZEN:
        _providers()  # it imports ONNX Runtime with its telemetry off
        for name in MODULES:
            with suppress(ImportError):
                versions[name] = getattr(import_module(name), "__version__", None)
    return {name: version for name, version in versions.items() if version is not None}


def _extras() -> Iterator[tuple[str, dict[str, str | None]]]:
    """Yield the extras with the versions of their packages, None for one that is missing."""
    try:
        requirements = metadata.requires("edgeseq") or []
    except metadata.PackageNotFoundError:
        return
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        found = REQUIREMENT.match(requirement)
        if found is not None and found[1] != "edgeseq" and found[2] not in SKIPPED_EXTRAS:
            extras.setdefault(found[2], {})[found[1]] = _version(found[1])
    yield from extras.items()


def _providers() -> Any:
    """Return ONNX Runtime's execution providers, or why it cannot be used."""
    try:
        from ..runtime.ort.import_onnxruntime import onnxruntime
    except EdgeseqError as error:
        return str(error)
    return list(onnxruntime.get_available_providers())


def _caches() -> dict[str, str]:
    try:
        from ..runtime.ort.prepacked import cache_folder
    except EdgeseqError:
        return {}
    return {"prepacked weights": _described(cache_folder())}


def _described(folder: Path) -> str:
    """Return the path of a folder and the size of its files."""
    if not folder.is_dir():
        return f"{folder} (not there)"
    try:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        return f"{folder} ({reason(error)})"
    return f"{folder} ({size / 1e6:.1f} MB)"


def _or_reason(value: Any) -> Any:
    try:
        return value()
    except EdgeseqError as error:
        return str(error)


def _tried(folder: Path, machine: Facts, expected: tuple[int, ...] | None) -> Facts:
    """Load a bundle and generate 5 tokens; return what was found, with the key "works".

    ``expected``: the tokens of a model that works; None if they are unknown.
    """
    facts: Facts = {"works": False}
    try:
        facts |= _generated(folder, machine)
        facts["works"] = True
    except Exception as error:  # whatever fails is what a bug report needs
        known = isinstance(error, EdgeseqError)
        facts["error"] = str(error) if known else f"{type(error).__name__}: {reason(error)}"
        return facts
    if expected is not None and tuple(facts["token_ids"]) != expected:
        facts["works"] = False
        facts["error"] = f"The tokens are wrong: they must be {list(expected)}."
    return facts


def _generated(folder: Path, machine: Facts) -> Facts:
    import time

    from ..runtime.loading import load

    began = time.perf_counter()
    with load(folder, **machine) as model:
        load_s = time.perf_counter() - began
        manifest = model.bundle.manifest
        ids = model.tokenizer.encode(PROMPT) or [0]  # not every vocabulary has these words
        [result] = model.generate_ids([ids], **GREEDY)
        return {
            "architecture": manifest.architecture,
            "recipe": manifest.quantization.recipe,
            "size_mb": round(sum(e.size_bytes for e in manifest.files.values()) / 1e6, 1),
            "made_with": dict(manifest.producers),
            "device": model.device,
            "kernels": model.kernels,
            "kv_cache": machine["kv_cache"] or manifest.kv_cache.dtype,
            "load_s": round(load_s, 3),
            "first_token_s": round(result.timings.first_token_s, 4),
            "total_s": round(result.timings.total_s, 4),
            "token_ids": list(result.token_ids),
            "finish_reason": result.finish_reason,
        }


def _without_home(value: Any) -> Any:
    """Return ``value`` with ~ in place of the path of the home folder, in all of its texts."""
    if isinstance(value, dict):
        return {name: _without_home(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_home(item) for item in value]
    if not isinstance(value, str):
        return value
    for home in _homes():
        value = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value)
    return value


def _homes() -> list[str]:
    """Return the path of the home folder, and the path that it is a link to."""
    try:
        home = Path.home()
    except RuntimeError:  # the system knows no home folder
        return []
    return [str(path) for path in {home, home.resolve()} if path != Path(path.anchor)]


def _print(name: str, value: Any) -> None:
    """Print a fact: a value, or a name and a value in each line."""
    lines = [_words(value)]
    if isinstance(value, dict):
        lines = [f"{key} {_words(item)}" for key, item in value.items()] or ["none"]
    for number, line in enumerate(lines):
        print(f"{name if number == 0 else '':<{LABEL_WIDTH}} {line}", flush=True)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "is missing" if value is None else str(value)
