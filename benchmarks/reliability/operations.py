"""The operations that write files, on tiny models, and how to see whether a result is whole."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeseq.runtime.errors import EdgeseqError

from .jobs import CACHE, DISK, TMP, Command, Job, Limit, import_all, start

ABSENT, OLD, BEGUN, WHOLE = "absent", "old", "begun", "whole"  # what a target may be
MADE = "made"  # a file that says that the inputs are complete
RESULTS = "results"  # the folder of a trial in which the target and what lies beside it are
STEPS = 24  # of a training run
LINES = 640  # of a file run: ten windows
WORDS = ("table", "fox", "princess", "algorithm", "wonderful", "key", "elephant", "night")
TEXT = "Once upon a time there was a clever fox; he said: let us go home! "
TASK = """\
title = "Pronounce"
["encoder-decoder"]
prompt = "pronounce: {text}"
"""
TEMPLATE_CHANGES = {
    "model.d_model": "32",
    "model.d_kv": "8",
    "model.num_heads": "4",
    "model.d_ff": "48",
    "model.num_layers": "1",
    "model.num_decoder_layers": "1",
    "tokenizer.vocab_size": "400",
    "trainer.max_steps": str(STEPS),
    "trainer.per_device_train_batch_size": "16",
    "trainer.eval_steps": "6",
    "trainer.logging_steps": "2",
    "trainer.warmup_ratio": "0.2",
    "trainer.eval_answers": "8",
}
Digest = Mapping[str, str]


@dataclass(frozen=True)
class Inputs:
    """The folder of all that operations read."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """A GPT-2 checkpoint with random weights."""
        return self.folder / "checkpoint"

    @property
    def bundle(self) -> Path:
        """Its bundle."""
        return self.folder / "bundle"

    @property
    def other(self) -> Inputs:
        """The inputs with other weights, data and texts."""
        return Inputs(self.folder / "other")


@dataclass(frozen=True)
class Operation:
    """A command that writes a target.

    ``work(inputs, target)`` does it. ``digest(target)``: the hashes of what must be the same each
    time, or an error for a target that is not whole.
    """

    name: str
    target: str  # its name
    work: Callable[[Inputs, Path], Command]
    digest: Callable[[Path], Digest]
    grows: bool = False  # whether a target that is begun is continued
    replaces: bool = False  # whether a whole target from other inputs lies there before


def export(inputs: Inputs, target: Path) -> Command:
    """Return an export to float32."""
    return Command("export", inputs.checkpoint, target, "--overwrite")


def export_quantized(inputs: Inputs, target: Path) -> Command:
    """Return an export that also quantizes."""
    text = inputs.folder / "calibration.txt"
    flags = ["--precision", "int8", "--text", text, "--allow-loss", "--threads", 1]
    flags += ["--overwrite"]
    return Command("export", inputs.checkpoint, target, *flags)


def quantize(inputs: Inputs, target: Path) -> Command:
    """Return a quantization."""
    text = inputs.folder / "calibration.txt"
    flags = ["--text", text, "--allow-loss", "--threads", 1, "--overwrite"]
    return Command("quantize", inputs.bundle, target, *flags)


def train(inputs: Inputs, target: Path) -> Command:
    """Return a training run from scratch with a bundle, which continues one that is begun."""
    template, data = inputs.folder / "tiny.toml", inputs.folder / "pairs.jsonl"
    flags = ["--data", data, "--out", target, "--threads", 1, "--precision", "fp32"]
    return Command("train", template, *flags, *(["--resume"] if target.exists() else []))


def run_file(inputs: Inputs, target: Path, workers: int = 1) -> Command:
    """Return a task on a file."""
    flags = ["--demo", "t5", "--input", inputs.folder / "words.txt", "--output", target]
    task = inputs.folder / "pronounce.toml"
    return Command("run", task, *flags, "--threads", 1, "--workers", workers)


def run_in_two_processes(inputs: Inputs, target: Path) -> Command:
    """Return a task on a file, in two processes."""
    return run_file(inputs, target, 2)


def prepack(inputs: Inputs, target: Path) -> Command:
    """Return loading a bundle whose packed weights are kept; ``target`` is in the user's cache."""
    flags = ["--prepack", "--threads", 1, "--max-new-tokens", 2]
    return Command("generate", "--bundle", inputs.bundle, TEXT, *flags, cache=target.parent)


def bundle_digest(target: Path) -> Digest:
    """Return the hashes of a bundle's files; raise ``BundleError`` for one that is not whole."""
    from edgeseq.runtime.bundle.reading import open_bundle

    open_bundle(target, verify=True)
    return folder_digest(target)


def run_digest(target: Path) -> Digest:
    """Return the hashes of what a training run ends with."""
    from edgeseq.runtime.bundle.reading import open_bundle

    open_bundle(target / "bundle", verify=True)
    weights = target / "bundle" / "weights.bin"
    return {**folder_digest(target / "checkpoint"), "bundle/weights.bin": _hash(weights)}


def file_digest(target: Path) -> Digest:
    """Return the hash of a file."""
    return {target.name: _hash(target)}


def cache_digest(target: Path) -> Digest:
    """Return the names and hashes of the entries; raise ``ValueError`` for one that is damaged."""
    found: dict[str, str] = {}
    for entry in sorted((target / "prepacked").iterdir()):
        if entry.name.startswith("."):
            continue
        record = json.loads((entry / "prepacked.json").read_text(encoding="utf-8"))
        for name, [_, sha256] in record["files"].items():
            if _hash(entry / name) != sha256:
                raise ValueError(f"{entry / name} is damaged.")
            found[f"{entry.name}/{name}"] = sha256
    if not found:
        raise FileNotFoundError(f"{target} has no entry.")
    return found


def folder_digest(folder: Path) -> Digest:
    """Return the hash of each file in a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _hash(path) for path in paths}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


OPERATIONS = (
    Operation("export", "bundle", export, bundle_digest),
    Operation("export over a bundle", "bundle", export, bundle_digest, replaces=True),
    Operation("export --precision", "bundle", export_quantized, bundle_digest),
    Operation("quantize", "bundle", quantize, bundle_digest),
    Operation("quantize over a bundle", "bundle", quantize, bundle_digest, replaces=True),
    Operation("train", "run", train, run_digest, grows=True),
    Operation("run to JSON Lines", "out.jsonl", run_file, file_digest, grows=True),
    Operation("run to CSV", "out.csv", run_file, file_digest),
    Operation("run with 2 processes", "out.jsonl", run_in_two_processes, file_digest, grows=True),
    Operation("prepack", "edgeseq", prepack, cache_digest, grows=True),
)


@dataclass(frozen=True)
class Reference:
    """What an operation makes when nothing disturbs it."""

    digest: Digest
    old: Digest | None  # of the target that was there before
    seconds: float
    changes: int  # that were seen in its folder
    peak_bytes: int  # of its files at once


@dataclass(frozen=True)
class Trial:
    """One try of an operation in a folder of its own."""

    operation: Operation
    inputs: Inputs
    folder: Path
    reference: Reference | None = None

    @property
    def results(self) -> Path:
        """The folder of the target and of what lies beside it."""
        return self.folder / DISK / RESULTS

    @property
    def target(self) -> Path:
        """What the operation writes."""
        return self.results / self.operation.target

    @property
    def places(self) -> tuple[Path, ...]:
        """All folders that the operation may write to."""
        disk = self.folder / DISK
        return self.results, disk / TMP, disk / CACHE

    def start(self, *limits: Limit) -> Job:
        """Start the operation."""
        return start(self.command, self.folder, *limits)

    @property
    def command(self) -> Command:
        """The operation's command line."""
        return self.operation.work(self.inputs, self.target)

    def look(self) -> str:
        """Return what the target is: absent, old, begun, whole, or what is wrong with it."""
        assert self.reference is not None
        if not self.target.exists():
            return ABSENT if self.reference.old is None else "the old target is gone"
        try:
            found = self.operation.digest(self.target)
        except (OSError, ValueError, KeyError, EdgeseqError) as error:
            return BEGUN if self.operation.grows else f"not whole: {error}"
        if found == self.reference.digest:
            return WHOLE
        if found == self.reference.old:
            return OLD
        return BEGUN if self.operation.grows else "neither the old target nor the new one"

    def left(self) -> list[str]:
        """Return what lies beside the target, and what is hidden in it.

        The lock of the cache may stay, which is empty.
        """
        found = [path for path in self.results.iterdir() if path != self.target]
        if self.target.is_dir():
            found += [path for path in self.target.rglob("*") if path.name.startswith(".")]
        for place in self.places[1:]:
            found += place.iterdir() if place.exists() else []
        names = [path.relative_to(self.folder / DISK).as_posix() for path in found]
        return sorted(name for name in names if not name.endswith("prepacked/.lock"))

    def lost(self) -> str | None:
        """Return what is wrong after the operation failed by itself: it cleans up, too."""
        if (found := self.look()) not in (ABSENT, OLD, BEGUN):
            return f"the target is {found}"
        begun = f"{RESULTS}/{self.operation.target}.part"  # the answers so far, to be continued
        if left := [name for name in self.left() if name != begun]:
            return f"it leaves {', '.join(left)}"
        return None

    def again(self) -> str | None:
        """Repeat the operation undisturbed; return what is wrong afterwards."""
        job = self.start()
        if job.wait():
            return f"the next run fails: {job.errors.strip().splitlines()[-1:]}"
        if (found := self.look()) != WHOLE:
            return f"after the next run the target is {found}"
        if left := self.left():
            return f"the next run leaves {', '.join(left)}"
        return None

    def delete(self) -> None:
        """Delete the trial's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Trials:
    """Trials of operations below ``work``, and the inputs that they read."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.inputs = Inputs(work / "inputs")
        self._count = 0
        self._references: dict[str, Reference] = {}
        import_all()
        for inputs, seed in ((self.inputs, 0), (self.inputs.other, 1)):
            if (inputs.folder / MADE).exists():
                continue
            shutil.rmtree(inputs.folder, ignore_errors=True)
            inputs.folder.mkdir(parents=True)
            job = start(partial(_make, inputs, seed), self.folder())
            if job.wait():
                raise RuntimeError(job.errors)

    def folder(self) -> Path:
        """Return a new folder for a trial."""
        self._count += 1
        folder = self.work / f"trial-{self._count}"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / DISK).mkdir(parents=True)
        return folder

    def new(
        self, operation: Operation, prepare: Callable[[Path], object] = lambda disk: None
    ) -> Trial:
        """Return a trial of an operation; a target to replace is there.

        ``prepare``: is called with the folder of all that the operation writes.
        """
        reference = self.reference(operation)
        trial = Trial(operation, self.inputs, self.folder(), reference)
        prepare(trial.folder / DISK)
        self._put_old(trial)
        return trial

    def _put_old(self, trial: Trial) -> None:
        trial.results.mkdir()
        if trial.operation.replaces:
            shutil.copytree(self.inputs.other.bundle, trial.target)

    def reference(self, operation: Operation, inputs: Inputs | None = None) -> Reference:
        """Return what an operation makes undisturbed, which must be the same twice."""
        inputs = inputs or self.inputs
        key = f"{operation.name} {inputs.folder}"
        if key not in self._references:
            first, second = (self._undisturbed(operation, inputs) for _ in range(2))
            if first.digest != second.digest:
                names = {name for name, _ in first.digest.items() ^ second.digest.items()}
                raise RuntimeError(f"{operation.name} differs from run to run: {names}")
            self._references[key] = second
        return self._references[key]

    def _undisturbed(self, operation: Operation, inputs: Inputs) -> Reference:
        trial = Trial(operation, inputs, self.folder())
        self._put_old(trial)
        old = operation.digest(trial.target) if operation.replaces else None
        started = time.perf_counter()
        job = trial.start()
        changes, peak_bytes = job.watch(trial.places)
        if job.wait():
            raise RuntimeError(f"{operation.name} fails: {job.errors}")
        seconds = time.perf_counter() - started
        if left := trial.left():
            raise RuntimeError(f"{operation.name} leaves {left}")
        digest = operation.digest(trial.target)
        trial.delete()
        return Reference(digest, old, seconds, changes, peak_bytes)


def _make(inputs: Inputs, seed: int) -> int:
    """Write all that operations read."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    from edgeseq.export import export_checkpoint
    from edgeseq.training.template import read_template, to_toml, with_overrides

    from ..checkpoints import byte_tokenizer

    folder, generator = inputs.folder, random.Random(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config = GPT2Config(vocab_size=257, n_positions=128, n_embd=64, n_layer=2, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(inputs.checkpoint)
    tokenizer = byte_tokenizer([], ["<|endoftext|>"])
    GPT2TokenizerFast(tokenizer_object=tokenizer).save_pretrained(inputs.checkpoint)
    export_checkpoint(inputs.checkpoint, inputs.bundle)
    (folder / "calibration.txt").write_text(TEXT * 12, encoding="utf-8")
    words = [generator.choice(WORDS) for _ in range(LINES)]
    (folder / "words.txt").write_text("\n".join([*words, ""]), encoding="utf-8")
    (folder / "pronounce.toml").write_text(TASK, encoding="utf-8")
    changes = {**TEMPLATE_CHANGES, "trainer.seed": str(seed)}
    template = with_overrides(read_template("t5-scratch"), changes)
    (folder / "tiny.toml").write_text(to_toml(template), encoding="utf-8")
    pairs = [
        {"source": f"{number:04} {generator.choice(WORDS)}", "target": f"{number:04}"[::-1]}
        for number in generator.sample(range(10_000), 120)
    ]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (folder / "pairs.jsonl").write_text(lines, encoding="utf-8")
    (folder / MADE).touch()
    return 0


def chosen(names: Sequence[str] | None) -> list[Operation]:
    """Return the operations with these names, or all."""
    return [one for one in OPERATIONS if names is None or one.name in names]
