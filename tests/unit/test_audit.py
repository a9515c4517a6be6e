""".ci/audit.py: what of pip-audit's reports is a failure, and which extras are audited."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# pip-audit 2.10.1 where PyPI's advisories could not be reached; it ended with status 0.
SKIPPED = """
{"dependencies": [{"name": "tokenizers", "skip_reason": "Dependency not found on PyPI and could not
be audited: tokenizers (0.22.2)"}, {"name": "numpy", "skip_reason": "Dependency not found on PyPI
and could not be audited: numpy (2.4.6)"}], "fixes": []}
"""
ACCEPTED = [
    {
        "package": "huggingface_hub",
        "versions": ["0.36.2"],
        "ids": ["PYSEC-1", "CVE-1"],
        "reason": "it is not called",
    }
]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(name: str, version: str, *ids: str) -> dict[str, Any]:
    advisory = {"id": ids[0], "aliases": list(ids[1:]), "fix_versions": ["9.9"], "description": ""}
    return {"dependencies": [{"name": name, "version": version, "vulns": [advisory]}], "fixes": []}


def test_a_skipped_package_is_a_problem(audit: ModuleType) -> None:
    found = audit.problems(json.loads(SKIPPED.replace("\n", " ")), ACCEPTED)
    assert [line.partition(":")[0] for line in found] == [
        "tokenizers was skipped",
        "numpy was skipped",
    ]


def test_edgeseq_itself_may_be_skipped(audit: ModuleType) -> None:
    skipped = {"dependencies": [{"name": "edgeseq", "skip_reason": "not on PyPI"}]}
    assert audit.problems(skipped, ACCEPTED) == []


def test_packages_without_advisories_are_no_problem(audit: ModuleType) -> None:
    clean = {"dependencies": [{"name": "numpy", "version": "2.4.6", "vulns": []}]}
    assert audit.problems(clean, ACCEPTED) == []


def test_a_vulnerability_is_a_problem_with_its_names_and_fixes(audit: ModuleType) -> None:
    found = audit.problems(report("numpy", "2.4.6", "PYSEC-7", "CVE-7"), ACCEPTED)
    assert found == ["numpy 2.4.6: PYSEC-7 = CVE-7, fixed versions: 9.9"]


@pytest.mark.parametrize("ids", [("PYSEC-1",), ("GHSA-1", "CVE-1")])
@pytest.mark.parametrize("name", ["huggingface-hub", "huggingface_hub"])
def test_an_accepted_advisory_is_found_by_any_of_its_names(
    audit: ModuleType, name: str, ids: tuple[str, ...]
) -> None:
    assert audit.problems(report(name, "0.36.2", *ids), ACCEPTED) == []


@pytest.mark.parametrize(
    ("name", "version", "id"),
    [
        ("huggingface-hub", "0.36.3", "CVE-1"),
        ("huggingface-hub", "0.36.2", "CVE-2"),
        ("tokenizers", "0.36.2", "CVE-1"),
    ],
)
def test_another_version_advisory_or_package_is_not_accepted(
    audit: ModuleType, name: str, version: str, id: str
) -> None:
    assert len(audit.problems(report(name, version, id), ACCEPTED)) == 1


def test_the_pinned_versions_are_those_that_were_looked_at(audit: ModuleType) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pins = {"transformers", "accelerate", "peft"}
    for entry in audit.read_accepted(audit.ACCEPTED):
        if entry["package"] in pins:
            assert [f"{entry['package']}=={v}" in text for v in entry["versions"]] == [True]


@pytest.mark.parametrize("missing", ["reason", "ids", "versions", "package"])
def test_an_entry_needs_all_keys(audit: ModuleType, missing: str, tmp_path: Path) -> None:
    keys = {"package": '"a"', "versions": '["1"]', "ids": '["b"]', "reason": '"c"'}
    lines = [f"{key} = {value}" for key, value in keys.items() if key != missing]
    path = tmp_path / "advisories.toml"
    path.write_text("\n".join(["[[accepted]]", *lines]), encoding="utf-8")
    with pytest.raises(SystemExit, match="without package"):
        audit.read_accepted(path)


def test_every_extra_is_audited() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    workflow = (ROOT / ".github" / "workflows" / "audit.yml").read_text(encoding="utf-8")
    words = {part for word in workflow.split() for part in word.split(",")}
    assert project["optional-dependencies"].keys() <= words
