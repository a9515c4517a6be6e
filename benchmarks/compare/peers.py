"""The programs that are compared, as ``benchmarks/peers/NAME/peer.toml`` describes them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.compare.workloads import Bits, Workload

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "benchmarks" / "peers"
OURS = "edgeseq"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What is installed for a program, or for a tool that converts checkpoints."""

    packages: Sequence[str] = ()  # for pip; "{repository}" stands for this repository
    npm: Sequence[str] = ()  # for npm
    variables: Mapping[str, str] = field(default_factory=dict)  # while it is installed


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form of a model's weights that a program runs."""

    name: str
    bits: Bits
    tools: str = ""  # the environment that the commands run in
    commands: Sequence[Sequence[str]] = ()  # from a checkpoint to a model
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
    tools = {name: Environment(**value) for name, value in data.pop("tools", {}).items()}
    return Peer(
        name=folder.name,
        environment=Environment(**data.pop("environment")),
        formats=formats,
        tools=tools,
        cannot=data.pop("cannot", {}),
        **data,
    )
