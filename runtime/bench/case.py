"""Cases to measure: bundles on devices with KV caches, and the lengths that fit each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.manifest import Manifest
from ..bundle.reading import Bundle, open_bundle
from ..errors import DeviceError, OptionError
from ..ort.devices import AUTO, CPU, Device, parse_device
from ..ort.engine import with_cache_on
from ..ort.providers import check_build
from .worker import Workload

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The lengths that were requested, in tokens."""

    prompts: Sequence[int]  # prompt lengths for the time to first token
    contexts: Sequence[int]  # tokens that the decoder has read before its speed is measured
    new_tokens: int  # new tokens after a context, or as many as fit
    fewest_new_tokens: int  # contexts with room for fewer new tokens are left out
    repeats: int  # measurements of each time to first token


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundle to measure, with one device and one KV cache."""

    name: str
    manifest: Manifest  # manifest with the KV cache to measure
    device: Device
    workload: Workload
    left_out: Sequence[str]  # a sentence for each length that does not fit the model


def cases_of(
    folders: Sequence[Path],
    kv_caches: Sequence[Any],
    lengths: Lengths,
    threads: int | None,
    machines: Sequence[Mapping[str, Any]] = ({"device": "cpu"},),
) -> list[Case]:
    """Return a checked case for every bundle on every device with every KV cache.

    ``kv_caches``: dtypes; None: the default of the bundle on the device. ``machines``: keyword
    arguments of ``load`` for a device and kernels. Reads all files once, so that no first load
    waits for a disk. Raises ``BundleError`` for a broken bundle, ``DeviceError`` for an unknown
    device, ``OptionError`` for a KV cache that a bundle does not have.
    """
    bundles = [open_bundle(folder) for folder in folders]
    cases = [
        _case(name, bundle, {**machine, "threads": threads, "kv_cache": dtype}, lengths)
        for name, bundle in zip(_names(bundles), bundles, strict=True)
        for machine in machines
        for dtype in dict.fromkeys(kv_caches)
    ]
    for bundle in bundles:
        _read_once(bundle)
    return cases


def _case(name: str, bundle: Bundle, asked: Mapping[str, Any], lengths: Lengths) -> Case:
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
                f"{max_positions} positions: use --prompt-lengths up to {max_positions}."
            )
    measured, fewest = dict(workload.new_tokens), lengths.fewest_new_tokens
    for context in lengths.contexts:
        if context not in measured:
            yield (
                f"{name}: the context {context} is left out, because the model has only "
                f"{max_positions} positions and a measurement needs {fewest} new tokens: use "
                f"--contexts up to {max_positions + 1 - fewest}."
            )


def _names(bundles: Sequence[Bundle]) -> list[str]:
    """Return the folders' names; equal names are numbered."""
    names = [bundle.folder.absolute().name for bundle in bundles]
    return [
        f"{name} #{names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _read_once(bundle: Bundle) -> None:
    for name in bundle.manifest.files:
        with bundle.file(name).open("rb") as file:
            while file.read(CHUNK_BYTES):
                pass
