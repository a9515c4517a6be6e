"""PyInstaller's hooks: every data file of the wheel comes into a frozen app.

PyInstaller is not needed: its functions are replaced by ones that search the source folders.
``.ci/freeze.py`` freezes real apps.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeseq.runtime.freezing import hook_folders
from tests.support.processes import python

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LISTED = SETTINGS["tool"]["setuptools"]
[HOOKS] = map(Path, hook_folders())


def folder_of(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


def collect_data_files(
    package: str, *, includes: list[str] | None = None, excludes: list[str] | None = None
) -> list[tuple[str, str]]:
    """Return the files with their folders in the app, as PyInstaller's function of this name."""
    folder = folder_of(package)
    left_out = {path for pattern in excludes or [] for path in folder.glob(pattern)}
    found = {path for pattern in includes or ["*"] for path in folder.glob(pattern)} - left_out
    return [
        (str(path), str(path.parent.relative_to(ROOT)))
        for path in sorted(found)
        if path.is_file() and path.suffix != ".py"
    ]


def collect_dynamic_libs(package: str, *, search_patterns: list[str]) -> list[tuple[str, str]]:
    return collect_data_files(package, includes=search_patterns)


def collect_submodules(package: str, filter: Any = lambda name: True) -> list[str]:
    names = (
        ".".join([package, *path.relative_to(folder_of(package)).with_suffix("").parts])
        for path in folder_of(package).rglob("*.py")
    )
    return [name for name in names if filter(name)]


@pytest.fixture
def run_hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs a hook and returns its names, and what its function ``hook`` adds."""
    for name in ("PyInstaller", "PyInstaller.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    functions = ModuleType("PyInstaller.utils.hooks")
    functions.__dict__.update(
        collect_data_files=collect_data_files,
        collect_dynamic_libs=collect_dynamic_libs,
        collect_submodules=collect_submodules,
        copy_metadata=lambda name: [(f"{name}.dist-info", f"{name}.dist-info")],
        get_hook_config=lambda api, module, key: api.config.get(module, {}).get(key),
    )
    monkeypatch.setitem(sys.modules, "PyInstaller.utils.hooks", functions)

    def run(path: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
        names = runpy.run_path(str(path))
        if (hook := names.get("hook")) is not None:
            datas, binaries = names.setdefault("datas", []), names.setdefault("binaries", [])
            add = {"add_datas": datas.extend, "add_binaries": binaries.extend}
            hook(SimpleNamespace(config=config or {}, **add))
        return names

    return run


def data_of(names: dict[str, Any]) -> set[str]:
    return {source.removeprefix(f"{ROOT}/") for source, _ in names.get("datas", [])}


def test_hooks_bring_every_data_file_of_the_wheel(run_hook: Any) -> None:
    brought = {item for path in HOOKS.glob("hook-*.py") for item in data_of(run_hook(path))}
    declared = {
        str(path.relative_to(ROOT))
        for package, patterns in LISTED["package-data"].items()
        for pattern in patterns
        for path in folder_of(package).glob(pattern)
    }
    wanted = {name for name in declared if not name.endswith("py.typed")}
    assert wanted <= brought
    assert brought - wanted == {"edgeseq.dist-info", "llguidance.dist-info"}


def test_files_go_where_the_code_looks_for_them(run_hook: Any) -> None:
    datas = run_hook(HOOKS / "hook-edgeseq.runtime.py")["datas"]
    places = {target for _, target in datas}
    assert {"runtime/bundle/demos/gpt2", "runtime/ort/graphs", "runtime/tasks"} <= places


def test_kernels_are_a_binary(run_hook: Any) -> None:
    library = sorted((ROOT / "runtime" / "native").glob("edgeseq_kernels.*"))
    binaries = run_hook(HOOKS / "hook-edgeseq.runtime.py")["binaries"]
    assert [source for source, _ in binaries] == [str(path) for path in library]


def test_demo_models_can_be_left_out(run_hook: Any) -> None:
    config = {"edgeseq.runtime": {"demos": False}}
    brought = data_of(run_hook(HOOKS / "hook-edgeseq.runtime.py", config))
    assert "runtime/tasks/completion.toml" in brought
    assert not [name for name in brought if "demos" in name]


@pytest.mark.parametrize("name", ["edgeseq.cli.generate", "edgeseq.cli.serve"])
def test_commands_are_hidden_imports(run_hook: Any, name: str) -> None:
    assert name in run_hook(HOOKS / "hook-edgeseq.cli.py")["hiddenimports"]


def test_names_of_the_runtime_are_hidden_imports(run_hook: Any) -> None:
    found = run_hook(HOOKS / "hook-edgeseq.runtime.py")["hiddenimports"]
    assert {"edgeseq.runtime.loading", "edgeseq.runtime.pipelines.pipeline"} <= {*found}
    assert not [name for name in found if "hook-" in name or "initializers" in name]


def test_entry_point_names_the_folder() -> None:
    points = SETTINGS["project"]["entry-points"]["pyinstaller40"]
    assert points == {"hook-dirs": "edgeseq.runtime.freezing:hook_folders"}


def test_version_without_metadata_is_unknown() -> None:
    code = (
        "import importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "import edgeseq.runtime; print(edgeseq.runtime.__version__)"
    )
    assert python(code).strip() == "unknown"


def test_frozen_app_refuses_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeseq.runtime.bench.rounds import measure_in_process
    from edgeseq.runtime.errors import EdgeseqError

    def popen(*_: Any, **__: Any) -> None:
        raise AssertionError("starts a process")

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(EdgeseqError, match="frozen"):
        measure_in_process(SimpleNamespace())
