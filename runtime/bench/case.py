"""Cases to measure: bundles on devices with KV caches, and the lengths that fit each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..bundle.manifest import Manifest
from ..bundle.reading import Bundle, open_bundle
from ..errors import DeviceError, OptionError
from ..ort.cpu import thread_count
from ..ort.devices import AUTO, CPU, Device, parse_device
from ..ort.engine import with_cache_on
from ..ort.providers import check_build
from .worker import Workload

CHUNK_BYTES = 1 << 20
# The read bandwidth is measured with as many bytes as a decode step reads, within these limits.
MIN_READ, MAX_READ = 1 << 20, 256 << 20


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The lengths that were requested, in tokens."""

    prompts: Sequence[int]  # prompt lengths for the time to first token
    contexts: Sequence[int]  # tokens that the decoder has read before its speed is measured
    new_tokens: int  # new tokens after a context, or as many as fit
    fewest_new_tokens: int  # contexts with room for fewer new tokens are left out
    repeats: int  # measurements of each time to first token


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What each bundle is measured with: every combination of these values."""

    kv_caches: Sequence[Any] = (None,)  # dtypes; None: the default of the bundle on the device
    threads: Sequence[int | None] = (None,)  # None: usable cores
    rows: Sequence[int] = (1,)  # prompts of a batch
    beams: Sequence[int] = (1,)
    # Keyword arguments of ``load`` for a device and kernels.
    machines: Sequence[Mapping[str, Any]] = ({"device": "cpu"},)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundle to measure, with one value of everything that a sweep changes."""

    name: str
    manifest: Manifest  # manifest with the KV cache to measure
    device: Device
    workload: Workload
    left_out: Sequence[str]  # a sentence for each length that does not fit the model

    @property
    def threads(self) -> int:
        """The number of threads."""
        return thread_count(self.workload.load_options.get("threads"))

    @property
    def reads(self) -> tuple[int, int]:
        """The threads and the bytes that measure the read bandwidth for this case."""
        return self.threads, min(max(self.manifest.weights_per_token_bytes, MIN_READ), MAX_READ)


def cases_of(folders: Sequence[Path], lengths: Lengths, sweep: Sweep) -> list[Case]:
    """Return a checked case for every bundle with every combination of ``sweep``.

    Reads all files once, so that no first load waits for a disk. Raises ``BundleError`` for a
    broken bundle, ``DeviceError`` for an unknown device, ``OptionError`` for a KV cache that a
    bundle does not have.
    """
    bundles = [open_bundle(folder) for folder in folders]
    cases = [
        _case(name, bundle, {**machine, "threads": threads, "kv_cache": dtype}, lengths, sizes)
        for name, bundle in zip(names_of(folders), bundles, strict=True)
        for machine in sweep.machines
        for dtype in dict.fromkeys(sweep.kv_caches)
        for threads in dict.fromkeys(sweep.threads)
        for sizes in product(dict.fromkeys(sweep.rows), dict.fromkeys(sweep.beams))
    ]
    for bundle in bundles:
        _read_once(bundle)
    return _told_apart(cases, sweep)


def _told_apart(cases: Sequence[Case], sweep: Sweep) -> list[Case]:
    """Return the cases with names that say what the sweep changes between them."""

    def words(case: Case) -> Iterator[str]:
        for values, value, noun in (
            (sweep.threads, case.threads, "thread"),
            (sweep.rows, case.workload.rows, "row"),
            (sweep.beams, case.workload.beams, "beam"),
        ):
            if len(set(values)) > 1 or (value > 1 and noun != "thread"):
                yield f"{value} {noun}{'s' * (value != 1)}"

    named = []
    for case in cases:
        changed = ", ".join(words(case))
        if changed and case.name.endswith(")"):
            changed = f"{case.name[:-1]}, {changed})"
        elif changed:
            changed = f"{case.name} ({changed})"
        named.append(replace(case, name=changed or case.name))
    return named


def _case(
    name: str,
    bundle: Bundle,
    asked: Mapping[str, Any],
    lengths: Lengths,
    sizes: tuple[int, int],
) -> Case:
    device, dtype = _device(asked), asked["kv_cache"]
    try:
        check_build(device)
        manifest = with_cache_on(device, bundle.manifest, dtype)
    except (DeviceError, OptionError) as error:
        raise type(error)(f"{name}: {error}") from error
    words = [device.name] * (device.provider != CPU)
    words += [f"{dtype} KV cache"] * (dtype is not None)
    if "kernels" in asked:
        words.append(f"{asked['kernels']} kernels")
    name += f" ({', '.join(words)})" if words else ""
    positions = manifest.dimensions.max_positions
    pairs = [(n, _new_tokens(n, lengths.new_tokens, positions)) for n in lengths.contexts]
    workload = Workload(
        folder=str(bundle.folder),
        load_options={option: value for option, value in asked.items() if value is not None},
        # A limit on positions limits the prompt; an encoder reads any number of tokens.
        prompt_lengths=[n for n in lengths.prompts if positions is None or n <= positions],
        new_tokens=[pair for pair in pairs if pair[1] >= lengths.fewest_new_tokens],
        repeats=lengths.repeats,
        rows=sizes[0],
        beams=sizes[1],
    )
    left_out = [] if positions is None else list(_left_out(name, workload, lengths, positions))
    return Case(name=name, manifest=manifest, device=device, workload=workload, left_out=left_out)


def _device(asked: Mapping[str, Any]) -> Device:
    if asked["device"] == AUTO:
        raise OptionError(
            "The device 'auto' cannot be measured: name a device, such as cpu or cuda."
        )
    return parse_device(
        asked["device"], asked.get("provider_options"), asked.get("provider_library")
    )


def _new_tokens(context: int, wanted: int, max_positions: int | None) -> int:
    """Return how many of ``wanted`` new tokens fit after ``context``; the last is never read."""
    return wanted if max_positions is None else min(wanted, max_positions - context + 1)


def _left_out(name: str, workload: Workload, lengths: Lengths, max_positions: int) -> Iterator[str]:
    for length in lengths.prompts:
        if length not in workload.prompt_lengths:
            yield (
                f"{name}: the prompt length {length} is left out, because the model has only "
                f"{max_positions} positions: use --prompt up to {max_positions}."
            )
    measured, fewest = dict(workload.new_tokens), lengths.fewest_new_tokens
    for context in lengths.contexts:
        if context not in measured:
            yield (
                f"{name}: the context {context} is left out, because the model has only "
                f"{max_positions} positions and a measurement needs {fewest} new tokens: use "
                f"--contexts up to {max_positions + 1 - fewest}."
            )


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names; equal names are numbered."""
    names = [folder.absolute().name for folder in folders]
    return [
        f"{name} #{names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _read_once(bundle: Bundle) -> None:
    for name in bundle.manifest.files:
        with bundle.file(name).open("rb") as file:
            while file.read(CHUNK_BYTES):
                pass
