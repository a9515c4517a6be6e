"""The programs that are compared, as ``benchmarks/peers/NAME/peer.toml`` describes them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.compare.workloads import Bits, Workload

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "benchmarks" / "peers"
OURS = "edgeseq"


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A package that is compiled here: one wheel for all environments of a program."""

    package: str  # for pip; "{repository}" stands for this repository
    folder: Path  # the program's
    # While it is compiled. "{cores}" stands for the number of logical cores, "{folder}" for the
    # program's folder, and "{cpu_options}" for the options below as arguments of CMake.
    variables: Mapping[str, str] = field(default_factory=dict)
    cpu_options: Mapping[str, str] = field(default_factory=dict)  # to flags that x86 needs for it


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What is installed for a program, or for a tool that converts checkpoints."""

    packages: Sequence[str] = ()  # for pip; "{compiled}" stands for the wheel of `compiled`
    npm: Sequence[str] = ()  # for npm
    variables: Mapping[str, str] = field(default_factory=dict)  # while it is installed
    compiled: Compiled | None = None  # if one of the packages is


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form of a model's weights that a program runs."""

    name: str
    bits: Bits
    tools: str = ""  # the environment that the commands run in
    commands: Sequence[Sequence[str]] = ()  # from a checkpoint to a model
    random_weights: Sequence[str] = ()  # options of the last command where a checkpoint has them
    model_of: str = ""  # a format whose models this one runs, with other settings
    workloads: Sequence[str] = ("*",)  # patterns: those that it takes part in
    keeps_files: bool = False  # its first run leaves files that later ones start from


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program: how to install it, to make models for it and to run it."""

    name: str
    title: str
    homepage: str
    environment: Environment
    tools: Mapping[str, Environment]
    formats: Mapping[str, Format]
    cannot: Mapping[str, str]  # patterns of "WORKLOAD/BITS" to reasons
    runner: str = "python"  # or "node"

    @property
    def folder(self) -> Path:
        """Where its adapter lies."""
        return FOLDER / self.name

    def formats_of(self, workload: Workload, bits: Bits) -> list[Format]:
        """Its forms of the workload's model in that many bits."""
        return [
            form
            for form in self.formats.values()
            if form.bits == bits and any(fnmatchcase(workload.name, p) for p in form.workloads)
        ]

    def obstacle(self, workload: Workload, bits: Bits) -> str | None:
        """Why the program cannot do ``workload`` at ``bits``; None: it can."""
        for pattern, reason in self.cannot.items():
            if fnmatchcase(f"{workload.name}/{bits}", pattern):
                return reason
        if not self.formats_of(workload, bits):
            return f"There is no {bits} form for this."
        return None


def read_peers(folder: Path = FOLDER) -> dict[str, Peer]:
    """All programs by name, edgeseq first."""
    names = sorted(path.parent.name for path in folder.glob("*/peer.toml"))
    return {name: read_peer(folder / name) for name in sorted(names, key=lambda n: n != OURS)}


def read_peer(folder: Path) -> Peer:
    """The program that ``folder`` describes."""
    data = tomllib.loads((folder / "peer.toml").read_text(encoding="utf-8"))
    formats = {name: Format(name=name, **value) for name, value in data.pop("formats").items()}
    compiled = Compiled(folder=folder, **found) if (found := data.pop("compiled", {})) else None
    tools = {name: _environment(value, compiled) for name, value in data.pop("tools", {}).items()}
    return Peer(
        name=folder.name,
        environment=_environment(data.pop("environment"), compiled),
        formats=formats,
        tools=tools,
        cannot=data.pop("cannot", {}),
        **data,
    )


def _environment(data: Mapping[str, Any], compiled: Compiled | None) -> Environment:
    environment = Environment(**data)
    if any("{compiled}" in package for package in environment.packages):
        return replace(environment, compiled=compiled)
    return environment
