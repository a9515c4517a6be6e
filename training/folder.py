"""The folder of a run: what lies in it, and whether a run may begin or continue there.

OUT/
├── template.toml   all settings of the run
├── run.json        what --resume compares: settings, data, base, versions
├── tokenizer/      the tokenizer of a new model
├── checkpoints/    for resuming; the newest and the best
├── figures.jsonl   the figures of each logged step and each evaluation
├── curves.png      their curves
├── held_out.jsonl  the held-out pairs, or held_out.txt, the held-out text
├── adapter/        the LoRA adapter alone
├── checkpoint/     the trained model; written whole or not at all
├── task.toml       the task of pairs, for `edgeseq run`
└── bundle/         the bundle
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..runtime.errors import TrainingError
from ..runtime.ort.cpu import system
from .data import FileFacts
from .template import Template, to_toml

RUN, TEMPLATE, TOKENIZER = "run.json", "template.toml", "tokenizer"
PACKAGES = ("edgeseq", "torch", "transformers", "accelerate", "peft", "tokenizers")
PARTIAL = ".partial-"
NO_EFFECT = {("trainer", "eval_samples")}  # settings that change nothing but what is shown
WEIGHTS = ("*.safetensors", "*.bin", "config.json")
Facts = Mapping[str, Any]


class RunFolder:
    """The folder ``out`` of a run.

    Raises ``TrainingError`` if a run may not begin there, or without ``resume`` may not continue.
    """

    def __init__(self, out: Path, *, resume: bool) -> None:
        self.out = out.expanduser().absolute()
        self.checkpoints = self.out / "checkpoints"
        self.checkpoint = self.out / "checkpoint"
        self.adapter = self.out / "adapter"
        self.bundle = self.out / "bundle"
        self.tokenizer = self.out / TOKENIZER
        self.figures = self.out / "figures.jsonl"
        self.curves = self.out / "curves.png"
        self.resumed = self._check(resume)

    @property
    def is_trained(self) -> bool:
        """Whether the trained model is complete."""
        return self.checkpoint.is_dir()

    def _check(self, resume: bool) -> bool:
        """Return whether a run continues here."""
        if self.out.exists() and not self.out.is_dir():
            raise TrainingError(f"{self.out} is a file: choose another folder.")
        empty = not self.out.exists() or not any(self.out.iterdir())
        if empty:
            return False
        if not (self.out / RUN).is_file():
            raise TrainingError(
                f"{self.out} exists and holds no training run: choose another folder."
            )
        if not resume and self.is_trained:
            raise TrainingError(f"{self.out} holds a finished run: choose another folder.")
        if not resume:
            raise TrainingError(
                f"{self.out} holds an interrupted run: pass --resume to continue it (in Python: "
                "resume=True), or choose another folder."
            )
        return True

    def create(self, template: Template, facts: Facts, tokenizer: Path | None) -> None:
        """Create the folder with all that --resume needs, or nothing."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(self.out) as folder:
            (folder / TEMPLATE).write_text(to_toml(template), encoding="utf-8", newline="\n")
            if tokenizer is not None:
                shutil.copytree(tokenizer, folder / TOKENIZER)
            text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
            (folder / RUN).write_text(text, encoding="utf-8", newline="\n")

    def facts(self) -> dict[str, Any]:
        """Return what run.json says; raise ``TrainingError`` if it is damaged."""
        try:
            found = json.loads((self.out / RUN).read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(
                f"{self.out / RUN} is damaged: choose another folder and begin again."
            ) from error
        return dict(found)

    def compare(self, facts: Facts) -> list[str]:
        """Return differences that can change the last digits of the result, such as versions.

        Raises ``TrainingError``, which names what differs, for another data set, another base or
        other settings.
        """
        kept = self.facts()
        if differing := list(_differences(kept, facts)):
            raise TrainingError(
                f"The run in {self.out} has other settings or data ({'; '.join(differing[:3])}): "
                "give what it began with, or choose another folder."
            )
        return [
            f"{name} was {kept.get(group, {}).get(name)} and is {value}"
            for group in ("versions", "machine")
            for name, value in facts[group].items()
            if kept.get(group, {}).get(name) != value
        ]


def run_facts(
    template: Template,
    *,
    base: Mapping[str, Any] | None,
    files: Sequence[FileFacts],
    held_out_files: Sequence[FileFacts],
    threads: int,
) -> dict[str, Any]:
    """Return what determines a run: run.json."""
    groups = ("model", "tokenizer", "trainer", "peft")
    settings = {group: dict(getattr(template, group)) for group in groups}
    facts = {
        "settings": {**settings, "data": asdict(template.data)},
        "base": base,
        "files": [asdict(file) for file in files],
        "held_out_files": [asdict(file) for file in held_out_files],
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": {"system": system(), "threads": threads},
    }
    return dict(json.loads(json.dumps(facts)))


def base_facts(name: str, folder: Path, identity: str, revision: str | None) -> dict[str, Any]:
    """Return what identifies a base; without a revision, the hash of its weights."""
    facts = {"name": name, "id": identity, "revision": revision}
    if revision is None:
        digest = hashlib.sha256()
        for path in sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        facts["sha256"] = digest.hexdigest()
    return facts


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _differences(kept: Facts, facts: Facts) -> Iterator[str]:
    """Yield each setting, file or base that differs, as a part of a sentence."""
    for group, settings in facts["settings"].items():
        before = kept.get("settings", {}).get(group, {})
        for name in sorted({*before, *settings}):
            if before.get(name) != settings.get(name) and (group, name) not in NO_EFFECT:
                yield (
                    f"{group}.{name} was {before.get(name)!r:.60} and is {settings.get(name)!r:.60}"
                )
    if _identity(kept.get("base")) != _identity(facts["base"]):
        yield "the base is another one"
    for side, spoken in (("files", "data"), ("held_out_files", "held-out data")):
        hashes = [[file["sha256"] for file in made.get(side, [])] for made in (kept, facts)]
        if hashes[0] != hashes[1]:
            old, new = (", ".join(file["name"] for file in m.get(side, [])) for m in (kept, facts))
            yield f"the {spoken} was {old or 'a split'} and is {new or 'a split'}" + (
                " with other content" if old == new else ""
            )


def _identity(base: Mapping[str, Any] | None) -> Any:
    return base and (base.get("revision") or base.get("sha256"))


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``target`` when the block ends, and is deleted if it raises."""
    for left in target.parent.glob(f".{target.name}{PARTIAL}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    folder = target.parent / f".{target.name}{PARTIAL}{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_space(folder: Path, needed: int) -> None:
    """Raise ``TrainingError`` if the disk has less than ``needed`` bytes for a run."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise TrainingError(
            f"{existing} has {free / 1e9:.3g} GB of free space, and the checkpoints need "
            f"{needed / 1e9:.3g} GB: free some space or choose another output folder."
        )
