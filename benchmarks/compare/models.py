"""Checkpoints of real dimensions, and what each program makes of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.environments import make_environment, python_of, run_or_exit
from benchmarks.compare.peers import REPOSITORY, Environment, Format, Peer

CHECKPOINT_TOOLS = "edgeseq_export"  # the environment that makes synthetic checkpoints


@dataclass(frozen=True)
class Workplace:
    """The folder that environments, checkpoints and models are kept in."""

    folder: Path
    tools: Mapping[str, Environment]  # by name, of all programs
    checkpoints: Mapping[str, Path]  # by name of the model; others are made with random weights

    def environment(self, name: str) -> Path:
        """Where the program ``name`` is installed."""
        return self.folder / "environments" / name

    def install(self, peer: Peer) -> None:
        """Install ``peer`` unless it is."""
        make_environment(self.environment(peer.name), peer.environment)

    def tool(self, name: str) -> Path:
        """The environment of the tool ``name``, which is made if need be."""
        folder = self.folder / "tools" / name
        make_environment(folder, self.tools[name])
        return folder

    def checkpoint(self, model: str) -> Path:
        """The checkpoint of ``model``: the user's, or one with seeded random weights."""
        if model in self.checkpoints:
            return self.checkpoints[model]
        folder = self.folder / "checkpoints" / model
        if not folder.exists():
            print(f"making a checkpoint of {model}", flush=True)
            script = os.fspath(REPOSITORY / "benchmarks" / "checkpoints.py")
            part = folder.with_name(folder.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            self._run(CHECKPOINT_TOOLS, ["python", script, model, os.fspath(part)])
            part.rename(folder)
        return folder

    def model(self, peer: Peer, model: str, form: Format) -> Path:
        """The folder of ``model`` as ``peer`` runs it in the form ``form``, made if need be."""
        if form.model_of:
            return self.model(peer, model, peer.formats[form.model_of])
        source = self.checkpoints.get(model)
        name = f"{model}-{form.name}" + (f"-{source.name}" if source else "")
        folder = self.folder / "models" / peer.name / name
        if not folder.exists():
            print(f"converting {model} for {peer.title}, {form.name}", flush=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            places = {
                "checkpoint": self.checkpoint(model),
                "model": folder,
                "folder": peer.folder,
            }
            for command in form.commands:
                self._run(form.tools, [part.format(**places) for part in command])
        return folder

    def _run(self, tool: str, command: list[str]) -> None:
        programs = Path(python_of(self.tool(tool))).parent
        program, *arguments = command
        run_or_exit(
            [os.fspath(programs / program), *arguments],
            f"{' '.join(command)} failed",
            {**os.environ, "HF_HUB_OFFLINE": "1"},
        )
