"""Audit the packages that edgeseq installs with an extra for known vulnerabilities.

    python .ci/audit.py cpu cpu,export cpu,server

For each set of extras, pip resolves the packages, and pip-audit looks each of them up at PyPI. A
package that pip-audit skips is a failure: its own exit status would be that of a clean audit. So is
a vulnerability that ``.ci/advisories.toml`` does not accept for that version. Needs pip-audit and
the network; ``--reports FOLDER`` keeps its reports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ACCEPTED = ROOT / ".ci" / "advisories.toml"
OWN = "edgeseq"  # which is not on PyPI yet


def main() -> int:
    """Audit every set of extras, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(description="Audit edgeseq's packages.")
    parser.add_argument("extras", nargs="+", help="extras, separated by commas")
    parser.add_argument("--reports", type=Path, help="folder for pip-audit's reports")
    arguments = parser.parse_args()
    accepted = read_accepted(ACCEPTED)
    failures = 0
    for extras in arguments.extras:
        report = audit(resolve(extras))
        if arguments.reports is not None:
            arguments.reports.mkdir(parents=True, exist_ok=True)
            path = arguments.reports / f"audit-{extras.replace(',', '-')}.json"
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        found = problems(report, accepted)
        failures += len(found)
        print(f"{extras}: {len(report['dependencies'])} packages, {len(found)} problems")
        for problem in found:
            print(f"  {problem}")
    return 1 if failures else 0


def resolve(extras: str) -> dict[str, str]:
    """Return the versions of the packages that pip would install, without edgeseq itself."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--report", "-", f"{ROOT}[{extras}]"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    packages = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    return {item["name"]: item["version"] for item in packages if item["name"] != OWN}


def audit(packages: Mapping[str, str]) -> dict[str, Any]:
    """Return pip-audit's report on exactly these versions."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "requirements.txt"
        lines = [f"{name}=={version}\n" for name, version in sorted(packages.items())]
        pinned.write_text("".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(pinned), "--no-deps"]
        command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"pip-audit ended with status {done.returncode} and without a report.")
    missing = normalized(packages) - normalized(item["name"] for item in report["dependencies"])
    if missing:
        sys.exit(f"pip-audit's report lacks {', '.join(sorted(missing))}.")
    return report


def read_accepted(path: Path) -> list[dict[str, Any]]:
    """Return the entries of the list of accepted advisories."""
    entries: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["accepted"]
    for entry in entries:
        if entry.keys() != {"package", "versions", "ids", "reason"} or not all(entry.values()):
            sys.exit(f"{path} has an entry without package, versions, ids or reason: {entry}")
    return entries


def problems(report: Mapping[str, Any], accepted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each skipped package and each vulnerability that is not accepted."""
    found = []
    for item in report["dependencies"]:
        if "skip_reason" in item:
            if item["name"] != OWN:
                found.append(f"{item['name']} was skipped: {item['skip_reason']}")
            continue
        for advisory in item["vulns"]:
            ids = [advisory["id"], *advisory.get("aliases", [])]
            if not any(accepts(entry, item, ids) for entry in accepted):
                fixed = ", ".join(advisory.get("fix_versions", [])) or "none"
                found.append(
                    f"{item['name']} {item['version']}: {' = '.join(ids)}, fixed versions: {fixed}"
                )
    return found


def accepts(entry: Mapping[str, Any], package: Mapping[str, str], ids: Sequence[str]) -> bool:
    """Return whether an entry accepts an advisory of a package in its version."""
    same = normalized([entry["package"]]) == normalized([package["name"]])
    return same and package["version"] in entry["versions"] and not {*ids}.isdisjoint(entry["ids"])


def normalized(names: Iterable[str]) -> set[str]:
    """Return names of packages as PyPI writes them."""
    return {name.lower().replace("_", "-").replace(".", "-") for name in names}


if __name__ == "__main__":
    sys.exit(main())
