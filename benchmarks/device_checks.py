"""The checks of a bundle on a device, for ``verify_device.py``."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from device_parity import parity

from edgeseq.runtime import EdgeseqError, Model, load
from edgeseq.runtime.bundle.manifest import ROLES
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.errors import reason
from edgeseq.runtime.ort.devices import Device
from edgeseq.runtime.ort.engine import Engine, with_cache
from edgeseq.runtime.ort.graph_session import GraphSession, open_session
from edgeseq.runtime.ort.import_onnxruntime import status
from edgeseq.runtime.ort.memory import DeviceMemory
from edgeseq.runtime.ort.providers import hidden_nodes

CACHE: Any = "float16"
LARGEST_DIFFERENCE = 0.03  # of logits, as a share of the largest: float16 sums differ by order
LEAST_AGREEMENT = 0.9  # share of equal most probable tokens
LARGEST_GROWTH_MB = 64
GENERATIONS = 20
NEW_TOKENS = 48
ERRORS = (status.EPFail, status.Fail, status.InvalidArgument, status.NotImplemented)


@dataclass
class Report:
    """The list of all checks with their results."""

    checks: list[dict[str, Any]] = field(default_factory=list)

    def add(self, bundle: str, check: str, passed: bool | None, found: str) -> None:
        """Add and print a check's result; ``passed``: None if the check only measures."""
        self.checks.append({"bundle": bundle, "check": check, "passed": passed, "found": found})
        print(f"{_mark(passed):6} {bundle}: {check}: {found}", flush=True)

    @contextmanager
    def failing(self, bundle: str, check: str) -> Iterator[None]:
        """Turn an error inside the block into a failed check, so that other checks still run."""
        try:
            yield
        except (EdgeseqError, MemoryError, RuntimeError, *ERRORS) as error:
            self.add(bundle, check, False, f"{type(error).__name__}: {reason(error)}")

    @property
    def failed(self) -> int:
        """The number of failed checks."""
        return sum(check["passed"] is False for check in self.checks)

    def markdown(self, head: str) -> str:
        """Return the report as Markdown that starts with ``head``."""
        rows = [
            f"| {c['bundle']} | {c['check']} | {_mark(c['passed'])} | {c['found']} |"
            for c in self.checks
        ]
        table = ["| bundle | check | | found |", "|---|---|---|---|", *rows]
        return "\n".join([head, "", *table, ""])


def _mark(passed: bool | None) -> str:
    return {True: "ok", False: "FAILED", None: "-"}[passed]


class _HostTensor:
    """Main memory that is reached by its address only, like the memory of a device."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._array = np.empty(shape, dtype)

    def data_ptr(self) -> int:
        """Return the address."""
        return self._array.ctypes.data


@dataclass(frozen=True)
class Target:
    """The device to verify, or the CPU as its stand-in."""

    device: Device
    is_stand_in: bool

    def model(self, folder: Path) -> Model:
        """Return the bundle's model, loaded on the device."""
        if not self.is_stand_in:
            return load(folder, device=self.device.name, kv_cache=CACHE)
        model = load(folder, kv_cache=CACHE)
        manifest = with_cache(model.bundle.manifest, CACHE)
        sessions = {
            role: open_session(folder / manifest.graphs[role], threads=None)
            for role in ROLES[manifest.kind]
        }
        memory = DeviceMemory("cpu", 0, _HostTensor, lambda graph: open_session(graph, threads=1))
        return model.with_decoders(Engine(manifest, sessions, memory=memory).decoder)


def verify(report: Report, name: str, folder: Path, source: Path, target: Target) -> None:
    """Run all checks of one bundle; an error is reported as a failed check.

    ``source``: the float32 bundle from which it was quantized.
    """
    with report.failing(name, "placement of nodes"):
        _placement(report, name, folder, target)
    with report.failing(name, "loading"):
        there, here = target.model(folder), load(folder, kv_cache=CACHE)
        prompts = _prompts(here)
        for check in (_logits, _texts, _batches):
            with report.failing(name, check.__name__[1:]):
                check(report, name, there, here, prompts)
        with report.failing(name, "float32"):
            _beside(report, name, "float32 on the CPU", None, there, load(source), prompts)
        with report.failing(name, "memory"):
            _memory(report, name, there, prompts, target.device)
        with report.failing(name, "speed"):
            _speed(report, name, there, prompts)


def _placement(report: Report, name: str, folder: Path, target: Target) -> None:
    if target.is_stand_in:
        report.add(name, "placement of nodes", None, "all on the CPU, the stand-in")
        return
    manifest = with_cache(open_bundle(folder).manifest, CACHE)
    for role in ROLES[manifest.kind]:
        # `open_session` would raise for nodes on the CPU; here they are reported.
        session = GraphSession(folder / manifest.graphs[role], target.device, 1)
        assigned = session.assigned_nodes()
        hidden = hidden_nodes(assigned)
        count = Counter(node.provider for node in assigned)
        found = ", ".join(f"{n} on {provider}" for provider, n in count.items())
        on_cpu = f"; on the CPU though they compute: {', '.join(hidden)}" if hidden else ""
        report.add(name, f"placement of nodes, {role}", not hidden, found + on_cpu)


def _prompts(model: Model) -> list[list[int]]:
    """Return eight prompts of 3 to 24 random ids."""
    rng = np.random.default_rng(0)
    vocabulary = model.bundle.manifest.dimensions.vocabulary
    return [rng.integers(3, vocabulary, 3 * n).tolist() for n in range(1, 9)]


def _logits(report: Report, name: str, there: Model, here: Model, prompts: list[list[int]]) -> None:
    _beside(report, name, "the CPU's", LARGEST_DIFFERENCE, there, here, prompts)


def _beside(
    report: Report,
    name: str,
    whose: str,
    limit: float | None,
    there: Model,
    here: Model,
    prompts: list[list[int]],
) -> None:
    """Compare the logits of two models; ``limit``: None to report the difference only."""
    pairs = zip(_steps(there, prompts), _steps(here, prompts), strict=True)
    differences, same = [], []
    for found, expected in pairs:
        differences.append(float(np.abs(found - expected).max() / np.abs(expected).max()))
        same.append(float((found.argmax(-1) == expected.argmax(-1)).mean()))
    passed = None
    if limit is not None:
        passed = bool(max(differences) < limit and np.mean(same) >= LEAST_AGREEMENT)
    text = (
        f"largest difference {max(differences):.2e}, same most probable token {np.mean(same):.1%}"
    )
    report.add(name, f"logits beside {whose}", passed, text)


def _steps(model: Model, prompts: list[list[int]]) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the logits after ``prompts``, then after each of 20 fixed tokens: (rows, vocab)."""
    is_t5 = model.bundle.manifest.kind == "encoder-decoder"
    starts = [[0]] * len(prompts) if is_t5 else prompts
    decoder = model.new_decoder(prompts, max(map(len, prompts)) + NEW_TOKENS)
    try:
        yield decoder.prefill(starts).copy()
        for token in range(5, 25):
            yield decoder.decode([token] * len(prompts)).copy()
    finally:
        decoder.close()


def _texts(report: Report, name: str, there: Model, here: Model, prompts: list[list[int]]) -> None:
    for check, passed, found in parity(there, here, prompts):
        report.add(name, check, passed, found)


def _batches(
    report: Report, name: str, there: Model, here: Model, prompts: list[list[int]]
) -> None:
    together = list(_steps(there, prompts))
    alone = [list(_steps(there, [prompt])) for prompt in prompts]
    largest = max(
        float(np.abs(step[row] - alone[row][i][0]).max() / np.abs(step[row]).max())
        for i, step in enumerate(together)
        for row in range(len(prompts))
    )
    found = f"largest difference of a row's logits alone and in a batch {largest:.2e}"
    report.add(name, "invariance", largest < LARGEST_DIFFERENCE, found)


def _memory(
    report: Report, name: str, there: Model, prompts: list[list[int]], device: Device
) -> None:
    def run() -> None:
        there.generate_ids(prompts[:4], num_beams=2, do_sample=False, max_new_tokens=16)

    run()
    before = _used_mb(device)
    for _ in range(GENERATIONS):
        run()
    after = _used_mb(device)
    if before is None or after is None:
        report.add(name, "memory", None, "nvidia-smi is not here, not measured")
        return
    found = f"{before} MB of the device after one generation, {after} after {GENERATIONS} more"
    report.add(name, "memory", after - before <= LARGEST_GROWTH_MB, found)


def _used_mb(device: Device) -> int | None:
    """Return the MB of a GPU that all programs use; None if unknown.

    The device's number is an index into ``CUDA_VISIBLE_DEVICES``, if that is set.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    which = seen.split(",")[device.number].strip() if seen else str(device.number)
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    command.append(f"--id={which}")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return int(done.stdout.split()[0]) if done.returncode == 0 and done.stdout.split() else None


def _speed(report: Report, name: str, there: Model, prompts: list[list[int]]) -> None:
    for way, options in (("greedy", {}), ("4 beams", {"num_beams": 4})):
        speeds = []
        for _ in range(4):
            started = time.perf_counter()
            there.generate_ids(
                prompts[-1:],
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=None,
                **options,
            )
            speeds.append(NEW_TOKENS / (time.perf_counter() - started))
        found = f"{np.median(speeds[1:]):.0f} tokens/s, a prompt of {len(prompts[-1])} tokens"
        report.add(name, f"speed, {way}", None, found)
