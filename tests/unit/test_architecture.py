"""Import rules: which folder may import which, and no circles.

Imports are read from the source, so that an import inside a function or for types alone counts like
any other.
"""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

from tests.support.processes import python

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("batch", "cli", "export", "quantize", "runtime", "serving", "training")

# Which of the project's packages each may import, besides itself.
MAY_IMPORT = {
    "runtime": set(),
    "export": {"runtime"},
    "quantize": {"runtime"},
    "serving": {"runtime"},
    "batch": {"runtime"},
    "training": {"runtime", "export", "quantize"},
    "cli": {"runtime", "batch", "export", "quantize", "serving", "training"},
}
# Which folders of `runtime` each may import, besides itself; its other modules are at the top.
TOP = {"decoder", "errors", "results"}  # modules that know nothing of the folders
RUNTIME_MAY_IMPORT: dict[str, set[str]] = {
    "bundle": {"concurrency", "errors"},
    "concurrency": {"errors"},
    "text": {"bundle", "errors"},
    "request": {"bundle", "text", *TOP},
    "logits": {"request", "text", *TOP},
    "decoding": {"bundle", "logits", "native", "request", "text", *TOP},
    "native": {"errors"},
    "ort": {"bundle", "concurrency", "native", *TOP},
    "evaluation": {
        *("bundle", "decoding", "logits", "model", "progress", "request", "tables", "tasks"),
        *("text", "translation", *TOP),
    },
    "freezing": set(),
    "bench": {"bundle", "loading", "model", "ort", "request", *TOP},
    "comparison": {"bench", "bundle", "evaluation", "loading", "model", *TOP},
    "translation": {"bundle", "request", "text", *TOP},
    "tables": {"errors"},
    "tasks": {"bundle", "request", "text", "translation", *TOP},
    "pipelines": {"bundle", "loading", "model", "request", "translation", *TOP},
}
SEARCH_SIDE = ("request", "logits", "decoding", "decoder", "prefix_cache", "results")
"""Parts of `runtime` that are pure numpy and know nothing of ONNX Runtime."""

RUNTIME_PACKAGES = {
    "numpy",
    "onnxruntime",
    "tokenizers",
    # Extras: `test_import_is_light` says that they are not loaded unasked.
    "huggingface_hub",
    "llguidance",
    "psutil",
    "pyarrow",
    "PyInstaller",  # in hooks, which PyInstaller runs
    "rouge_score",
    "sacrebleu",
}
WRITES_GRAPHS = "edgeseq.runtime.bundle.initializers"  # the one module that imports `onnx`


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


def chain_to(module: str, package: str) -> list[str]:
    """Return the shortest way on which a module comes to import a package, or nothing."""
    chains, seen = [[module]], {module}
    while chains:
        chain = chains.pop(0)
        for name in sorted(imports_of(chain[-1])):
            if top_level(name) == package:
                return [*chain, name]
            if name in MODULES and name not in seen:
                seen.add(name)
                chains.append([*chain, name])
    return []


def circles() -> list[list[str]]:
    """Return the groups of modules that come to import each other (Tarjan)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for name in sorted(imports_of(module) & MODULES.keys()):
            if name not in order:
                visit(name)
                lowest[module] = min(lowest[module], lowest[name])
            elif name in stack:
                lowest[module] = min(lowest[module], order[name])
        if lowest[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(group)

    for module in MODULES:
        if module not in order:
            visit(module)
    return found


def top_level(module: str) -> str:
    return module.partition(".")[0]


def part_of(module: str, depth: int) -> str:
    """Return the name at a depth of the dotted name: 1 for the package, 2 for its folder."""
    return ".".join(module.split(".")[depth : depth + 1])


def modules_of(package: str) -> list[str]:
    return [name for name in MODULES if part_of(name, 1) == package]


@pytest.mark.parametrize("module", MODULES)
def test_packages_import_as_they_may(module: str) -> None:
    package = part_of(module, 1)
    ours = {part_of(name, 1) for name in imports_of(module) if top_level(name) == "edgeseq"}
    assert ours - {package} <= MAY_IMPORT[package]


@pytest.mark.parametrize("module", modules_of("runtime"))
def test_folders_of_the_runtime_import_as_they_may(module: str) -> None:
    folder = part_of(module, 2)
    if folder not in RUNTIME_MAY_IMPORT:
        return
    ours = {part_of(name, 2) for name in imports_of(module) if name.startswith("edgeseq.runtime")}
    assert ours - {folder} <= RUNTIME_MAY_IMPORT[folder]


def test_every_folder_of_the_runtime_has_its_rule() -> None:
    folders = {path.parent.name for path in (ROOT / "runtime").glob("*/__init__.py")}
    assert folders == RUNTIME_MAY_IMPORT.keys()


@pytest.mark.parametrize("module", modules_of("runtime"))
def test_runtime_imports_nothing_but_its_few_dependencies(module: str) -> None:
    allowed = RUNTIME_PACKAGES | sys.stdlib_module_names | {"edgeseq"}
    if module == WRITES_GRAPHS:
        allowed |= {"onnx"}
    assert {top_level(name) for name in imports_of(module)} <= allowed


@pytest.mark.parametrize("module", modules_of("runtime"))
def test_nothing_that_runs_a_bundle_comes_to_import_onnx(module: str) -> None:
    assert module == WRITES_GRAPHS or chain_to(module, "onnx") == []


@pytest.mark.parametrize(
    "module", [name for name in modules_of("runtime") if part_of(name, 2) in SEARCH_SIDE]
)
def test_search_side_never_comes_to_import_onnxruntime(module: str) -> None:
    assert chain_to(module, "onnxruntime") == []


def test_there_are_no_circles() -> None:
    assert circles() == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_within_the_project_are_relative(module: str) -> None:
    """So an editor or a type checker follows them from a plain checkout."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    absolute = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and not node.level and is_ours(node.module))
        or (isinstance(node, ast.Import) and any(is_ours(alias.name) for alias in node.names))
    ]
    assert absolute == []


def is_ours(name: str | None) -> bool:
    return top_level(name or "") == "edgeseq"


def test_every_folder_is_in_the_wheel() -> None:
    """A folder that setuptools does not know works in an editable install and is missing later."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(settings["setuptools"]["packages"]) == folders
    places = {name: name.removeprefix("edgeseq.").replace(".", "/") for name in folders}
    assert settings["setuptools"]["package-dir"] == places


@pytest.mark.parametrize(
    "module",
    [
        "edgeseq.batch",
        "edgeseq.runtime",
        "edgeseq.cli",
        "edgeseq.serving",
        "edgeseq.training.template",
    ],
)
def test_import_is_light(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = {top_level(name) for name in json.loads(python(code))}
    heavy = {"torch", "transformers", "onnx", "optimum", "huggingface_hub", "llguidance"}
    heavy |= {"matplotlib", "asyncio", "psutil", "pyarrow", "sacrebleu", "numpy", "starlette"}
    heavy |= {"uvicorn", "ray"}
    assert loaded & heavy == set()
