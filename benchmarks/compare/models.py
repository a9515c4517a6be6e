"""Checkpoints of real dimensions, and what each program makes of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.compare.commands import SetupError, run_command
from benchmarks.compare.compiling import compiled_folder
from benchmarks.compare.environments import make_environment, python_of
from benchmarks.compare.peers import REPOSITORY, Environment, Format, Peer

CHECKPOINT_TOOLS = "edgeseq_export"  # the environment that makes synthetic checkpoints


@dataclass(frozen=True)
class Workplace:
    """The folder that environments, checkpoints and models are kept in."""

    folder: Path
    tools: Mapping[str, Environment]  # by name, of all programs
    checkpoints: Mapping[str, Path]  # by name of the model; others are made with random weights
    failed: dict[Path, SetupError] = field(default_factory=dict)  # what is not tried again

    def environment(self, name: str) -> Path:
        """Where the program ``name`` is installed."""
        return self.folder / "environments" / name

    def install(self, peer: Peer) -> None:
        """Install ``peer`` unless it is."""
        folder = self.environment(peer.name)
        make_environment(folder, peer.environment, self.folder / "compiled")

    def tool(self, name: str) -> Path:
        """The environment of the tool ``name``, which is made if need be."""
        folder = self.folder / "tools" / name
        with self._once(folder):
            make_environment(folder, self.tools[name], self.folder / "compiled")
        return folder

    def checkpoint(self, model: str) -> Path:
        """The checkpoint of ``model``: the user's, or one with seeded random weights."""
        if model in self.checkpoints:
            return self.checkpoints[model]
        folder = self.folder / "checkpoints" / model
        if not folder.exists():
            print(f"making a checkpoint of {model}", flush=True)
            script = os.fspath(REPOSITORY / "benchmarks" / "checkpoints.py")
            with self._once(folder), complete(folder) as part:
                command = ["python", script, model, os.fspath(part)]
                self._run(CHECKPOINT_TOOLS, command, f"could not make a checkpoint of {model}")
        return folder

    def model(self, peer: Peer, model: str, form: Format) -> Path:
        """The folder of ``model`` as ``peer`` runs it in the form ``form``, made if need be."""
        if form.model_of:
            return self.model(peer, model, peer.formats[form.model_of])
        source = self.checkpoints.get(model)
        name = f"{model}-{form.name}" + (f"-{source.name}" if source else "")
        folder = self.folder / "models" / peer.name / name
        if not folder.exists():
            if folder not in self.failed:
                print(f"converting {model} for {peer.title}, {form.name}", flush=True)
            commands = [list(command) for command in form.commands]
            if not source:
                commands[-1] += form.random_weights
            compiled = self.tools[form.tools].compiled
            places = {"checkpoint": self.checkpoint(model), "folder": peer.folder}
            if compiled:
                places["compiled"] = compiled_folder(compiled, self.folder / "compiled")
            with self._once(folder), complete(folder) as part:
                places["model"] = part
                for words in commands:
                    command = [word.format(**places) for word in words]
                    self._run(form.tools, command, f"could not convert {model} to {form.name}")
        return folder

    @contextmanager
    def _once(self, folder: Path) -> Iterator[None]:
        """Run the block, which makes ``folder``; if it failed before, raise that error again."""
        if folder in self.failed:
            raise self.failed[folder]
        try:
            yield
        except SetupError as error:
            self.failed[folder] = error
            raise

    def _run(self, tool: str, command: list[str], failure: str) -> None:
        programs = Path(python_of(self.tool(tool))).parent
        program, *arguments = command
        variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
        run_command([os.fspath(programs / program), *arguments], failure, variables)


@contextmanager
def complete(folder: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``folder`` only without an error.

    What lies beside that path is deleted, and so is what an earlier process left unfinished.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part / "model"
        (part / "model").rename(folder)
    finally:
        shutil.rmtree(part)
