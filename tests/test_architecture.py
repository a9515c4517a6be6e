"""The rules of the code's structure: who may import whom, and how long a file may be.

Imports are read from the source, so that one inside a function counts like any other.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("export", "quantize", "runtime")
FOLDERS = (*PACKAGES, ".ci", "benchmarks", "demos", "docs", "examples")
MAX_LINES = 300

COMMAND_LINE = "edgeseq.cli"
"""Joins the three packages by lazy import: the one module exempt from the import rules."""

RUNTIME_MAY_IMPORT = {
    "numpy",
    "onnxruntime",
    "tokenizers",
    "huggingface_hub",
    "llguidance",
    "matplotlib",
}
"""The last two are extras: ``test_import_is_light`` says that they are not loaded unasked."""

SEARCH_SIDE = {
    "arguments",
    "beam_search",
    "candidates",
    "chunks",
    "decoder",
    "error_rates",
    "evaluation",
    "group_beam_search",
    "hypotheses",
    "kept_decoder",
    "limits",
    "logprobs",
    "lookup",
    "loop",
    "option_values",
    "options",
    "penalties",
    "placement",
    "position_loss",
    "processors",
    "prompts",
    "resolving",
    "results",
    "row_search",
    "sampling",
    "scoring",
    "search",
    "searches",
    "stopping",
    "warpers",
}
"""Files of `runtime` that are pure numpy and know nothing of ONNX Runtime."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("edgeseq", *parts)).removesuffix(".__init__")


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


@cache
def imports_of(module: str) -> frozenset[str]:
    """Return the absolute names of the modules that a module of the project imports."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in names_in(node, package)
    )


def names_in(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            name = f"{base}.{alias.name}"
            yield name if name in MODULES else base


def chain_to_onnxruntime(module: str) -> list[str]:
    """Return the shortest way on which a module comes to import onnxruntime, or nothing."""
    chains, seen = [[module]], {module}
    while chains:
        chain = chains.pop(0)
        for name in sorted(imports_of(chain[-1])):
            if top_level(name) == "onnxruntime":
                return [*chain, name]
            if name in MODULES and name not in seen:
                seen.add(name)
                chains.append([*chain, name])
    return []


def top_level(module: str) -> str:
    return module.partition(".")[0]


def belongs_to(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def modules_of(package: str) -> list[str]:
    return [
        name for name in MODULES if belongs_to(name, f"edgeseq.{package}") and name != COMMAND_LINE
    ]


def search_side() -> list[str]:
    return [name for name in modules_of("runtime") if name.rpartition(".")[2] in SEARCH_SIDE]


def project_files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("module", modules_of("runtime"))
def test_runtime_imports_nothing_but_its_few_dependencies(module: str) -> None:
    def allowed(name: str) -> bool:
        if top_level(name) == "edgeseq":
            return belongs_to(name, "edgeseq.runtime") and name != COMMAND_LINE
        return top_level(name) in RUNTIME_MAY_IMPORT | sys.stdlib_module_names

    assert [name for name in sorted(imports_of(module)) if not allowed(name)] == []


@pytest.mark.parametrize(("package", "other"), [("export", "quantize"), ("quantize", "export")])
def test_export_and_quantize_never_import_each_other(package: str, other: str) -> None:
    importers = [
        module
        for module in modules_of(package)
        if any(belongs_to(name, f"edgeseq.{other}") for name in imports_of(module))
    ]
    assert importers == []


@pytest.mark.parametrize("module", search_side())
def test_search_side_never_comes_to_import_onnxruntime(module: str) -> None:
    assert chain_to_onnxruntime(module) == []


def test_search_side_exists() -> None:
    assert {name.rpartition(".")[2] for name in search_side()} == SEARCH_SIDE


@pytest.mark.parametrize("module", ["edgeseq.runtime", COMMAND_LINE])
def test_import_is_light(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {top_level(name) for name in json.loads(done.stdout)}
    heavy = {"torch", "transformers", "onnx", "optimum", "huggingface_hub", "llguidance"}
    heavy |= {"matplotlib", "asyncio"}
    assert loaded & heavy == set()


@pytest.mark.parametrize(
    "path", project_files(), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES
