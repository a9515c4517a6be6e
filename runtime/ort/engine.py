"""The engine of a loaded bundle: its sessions on a device, and decoders over them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..bundle.graph_contract import check_graph
from ..bundle.manifest import (
    DECODERS,
    MANIFEST_NAME,
    WEIGHTS_FILE_NAME,
    CacheDtype,
    CacheFormat,
    Manifest,
)
from ..concurrency.background import together
from ..concurrency.locks import Slots
from ..decoder import Decoder
from ..errors import BundleError, DeviceError, EdgeseqError, OptionError, reason
from ..native.library import Kernels, check_kernels
from .cpu import thread_count
from .devices import AUTO, CPU, CPU_DEVICE, CUDA, Device, parse_device
from .graph_session import (
    WITHOUT_PACKING,
    GraphSession,
    map_shared_weights,
    map_weights,
    open_session,
    shared_session,
)
from .memory import CpuMemory, DeviceLogits, DeviceMemory, Memory
from .onnx_decoder import OnnxDecoder
from .onnx_encoder import OnnxEncoder
from .providers import check_build, device_tensor
from .sharing.shared_decoder import SharedDecoder
from .sharing.shared_steps import SharedSteps

MAX_CONCURRENT = 16  # default limit of generations at once
CLOSED = "The model is closed: load it again."
ASKED_FOR = "it was requested"
TRIAL_TOKENS = 8  # of the prompt with which a device is tried
MOST_DIFFERENCE = 0.05  # between a device's logits and the CPU's, as a share of their range


class Engine:
    """The sessions of a bundle, which all of its decoders share, until it is closed.

    ``manifest``: the manifest with the KV cache that the sessions use. ``sessions``: by the graphs'
    roles. ``memory``: the memory of KV caches; None: main memory. ``device`` and
    ``device_reason``: name of the device and the reason for it. ``has_native_kernels``: whether
    edgeseq's own kernels compute some nodes. ``max_concurrent``: limit of
    generations at once, each with its own KV cache.
    """

    def __init__(
        self,
        manifest: Manifest,
        sessions: Mapping[str, Any],
        *,
        memory: Memory | None = None,
        device: str = CPU_DEVICE.name,
        device_reason: str = ASKED_FOR,
        max_concurrent: int = MAX_CONCURRENT,
    ) -> None:
        self.manifest = manifest
        self.device = device
        self.device_reason = device_reason
        self.slots = Slots(max_concurrent)
        self.has_native_kernels = any(
            getattr(session, "has_native_kernels", False) for session in sessions.values()
        )
        self._sessions: Mapping[str, Any] | None = sessions
        self._memory = memory or CpuMemory()
        self._device_logits = None
        if isinstance(self._memory, DeviceMemory):
            vocabulary = manifest.dimensions.vocabulary
            self._device_logits = partial(DeviceLogits, self._memory, vocabulary=vocabulary)
        # Other devices keep a cache for each generation: their memory cannot be accessed here, or
        # they copy all inputs at each run.
        in_main_memory = not getattr(sessions.get("decoder"), "copies_inputs", False)
        self._steps: SharedSteps | None = None
        if self._device_logits is None and in_main_memory:
            self._steps = SharedSteps(sessions["decoder"], manifest)
        self._is_closed = False
        self._process = os.getpid()

    def decoder(self, prompts: Sequence[Sequence[int]], capacity: int) -> Decoder:
        """Return a decoder with one row per prompt; with an encoder, ``prompts`` are its sources.

        ``capacity``: most positions per row. Sources are encoded when the decoder reads its first
        tokens. Raises ``EdgeseqError`` if the engine is closed.
        """
        sessions = self._sessions
        if sessions is None:
            raise EdgeseqError(CLOSED)
        sources = None
        if self.manifest.has_encoder:
            encoder = OnnxEncoder(sessions["encoder"], self.manifest, self._memory)
            sources = encoder.prepare(prompts)
        private = OnnxDecoder(
            sessions["decoder"],
            self.manifest,
            self._memory,
            rows=len(prompts),
            capacity=capacity,
            sources=sources,
            device_logits=self._device_logits,
        )
        return private if self._steps is None else SharedDecoder(private, self._steps)

    def check_open(self) -> None:
        """Raise ``EdgeseqError`` if no call may begin: after ``close``, or in a forked child."""
        if self._is_closed:
            raise EdgeseqError(CLOSED)
        if os.getpid() != self._process:
            raise EdgeseqError(
                "The model was loaded before this process was forked, and a fork does not copy its "
                "threads: load the model in this process."
            )

    def close(self) -> None:
        """Refuse new calls, and free the weights once all calls under way have ended."""
        self._is_closed = True
        self.slots.when_empty(self._free)

    def _free(self) -> None:
        self._sessions = self._steps = None
        _return_freed_memory()


def open_engine(
    manifest: Manifest,
    folder: Path,
    *,
    device: str = CPU_DEVICE.name,
    provider_options: Mapping[str, Any] | None = None,
    provider_library: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    kv_cache: CacheDtype | None = None,
    prepack: bool = False,
    verify: bool = False,
    max_concurrent: int = MAX_CONCURRENT,
    mapped: bool = False,
    kernels: Kernels = "auto",
) -> Engine:
    """Open the graphs of the bundle in ``folder``; arguments are those of ``load``.

    ``mapped`` leaves the weights in the file's memory instead of packing copies for the kernels:
    less memory, and slower decode steps. ``verify`` checks prepacked weights too. Raises
    ``DeviceError`` for a device that is not available, ``OptionError`` for a cache that the bundle
    has no graph for, ``BundleError`` for a broken graph.
    """
    check_kernels(kernels)
    settings: dict[str, Any] = {
        "kernels": kernels,
        "threads": threads,
        "kv_cache": kv_cache,
        "verify": verify,
        "max_concurrent": max_concurrent,
        "mapped": mapped,
    }
    if device != AUTO:
        asked = parse_device(device, provider_options, provider_library)
        engine = open_on(asked, ASKED_FOR, manifest, folder, prepack=prepack, **settings)
        if asked.provider != CUDA and (asked.provider != CPU or asked.library is not None):
            _check_results(engine, manifest, folder)
        return engine
    if provider_options is not None or provider_library is not None:
        name = "provider_options" if provider_options is not None else "provider_library"
        raise OptionError(
            f"{name} cannot be used with the device 'auto': name the device, or leave {name} out."
        )
    try:
        why = "the bundle's graphs run on it"
        engine = open_on(parse_device("cuda"), why, manifest, folder, **settings)
        _trial(engine)
    except (BundleError, DeviceError, OptionError) as error:
        return open_on(CPU_DEVICE, str(error), manifest, folder, prepack=prepack, **settings)
    return engine


def open_on(
    device: Device,
    why: str,
    manifest: Manifest,
    folder: Path,
    *,
    threads: int | None,
    kv_cache: CacheDtype | None,
    verify: bool,
    max_concurrent: int,
    prepack: bool = False,
    mapped: bool = False,
    kernels: Kernels = "auto",
) -> Engine:
    """Open the graphs on ``device``; ``why``: the reason for the device. See ``open_engine``."""
    check_build(device)
    if prepack and device.provider != CPU:
        raise OptionError(f"prepack has no effect on the device {device.name!r}: leave it out.")
    manifest = with_cache_on(device, manifest, kv_cache)
    weights = manifest.shared_weights
    if any(weight.rows != manifest.dimensions.vocabulary for weight in weights.values()):
        raise BundleError(
            f"{MANIFEST_NAME} lists a shared weight that is not an embedding: export the bundle "
            "again."
        )
    weights_file = folder / WEIGHTS_FILE_NAME
    shared = map_shared_weights(weights_file, weights)
    overlapping = map_weights(weights_file, manifest.overlapping_weights or {})

    entries = WITHOUT_PACKING if mapped else {}

    def open_checked(role: str) -> GraphSession:
        graph = folder / manifest.graphs[role]
        if prepack:
            from .prepacked import prepacked_graph  # late: few loads need it

            graph = prepacked_graph(folder, manifest, role, shared, kernels, verify=verify)
        session = shared_session(
            (graph, weights_file),
            (device.key, thread_count(threads), mapped, kernels),
            lambda: open_session(
                graph,
                device,
                threads,
                shared,
                overlapping=overlapping,
                entries=entries,
                kernels=kernels,
            ),
        )
        check_graph(session, role, manifest)
        return session

    sessions = together({role: partial(open_checked, role) for role in manifest.roles})
    if kernels == "native" and not any(found.has_native_kernels for found in sessions.values()):
        raise OptionError(
            f"kernels='native' has no effect on this bundle and the device {device.name!r}: leave "
            "it out."
        )
    return Engine(
        manifest,
        sessions,
        memory=_device_memory(device) if device.provider == CUDA else None,
        device=device.name,
        device_reason=why,
        max_concurrent=max_concurrent,
    )


def with_cache_on(device: Device, manifest: Manifest, dtype: CacheDtype | None) -> Manifest:
    """Return ``manifest`` with the decoder graph for ``dtype`` on ``device``; None: the default.

    Raises ``OptionError`` for a dtype that the device or the bundle does not support,
    ``DeviceError`` if the bundle has no graph for the device.
    """
    if device.provider == CUDA and dtype not in (None, "float16"):
        raise OptionError(
            f"kv_cache is {dtype!r}, but the device {device.name!r} supports only 'float16': leave "
            "kv_cache out."
        )
    return with_cache(manifest, dtype or default_cache(manifest, device))


def default_cache(manifest: Manifest, device: Device) -> CacheDtype:
    """Return the default dtype of the KV cache on ``device``; ``DeviceError`` without a graph."""
    if device.provider != CUDA:
        return manifest.kv_cache.dtype
    if DECODERS["float16"] not in manifest.graphs:
        raise DeviceError(
            f"The bundle has no graph for the device {device.name!r}: quantize the float32 bundle "
            "for it (`edgeseq quantize BUNDLE OUT --recipe fp16`, or int8-weights or int4)."
        )
    return "float16"


def with_cache(manifest: Manifest, dtype: CacheDtype) -> Manifest:
    """Return ``manifest`` with the decoder graph whose KV cache holds ``dtype``."""
    known: tuple[CacheDtype, ...] = get_args(CacheDtype)
    if dtype not in known:
        raise OptionError(f"kv_cache is {dtype!r}; it must be {_either(known)}.")
    graph = manifest.graphs.get(DECODERS[dtype])
    if graph is None:
        there = tuple(name for name, role in DECODERS.items() if role in manifest.graphs)
        raise OptionError(
            f"kv_cache is {dtype!r}, but the bundle has no graph for it: use {_either(there)}, or "
            "make a bundle that has one with `edgeseq quantize`."
        )
    graphs = {**manifest.graphs, "decoder": graph}
    return replace(manifest, graphs=graphs, kv_cache=CacheFormat(dtype=dtype))


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))


def _trial(engine: Engine) -> NDArray[np.float32]:
    """Return the logits of a prefill and two decode steps, (3, vocabulary).

    They fail if the device lacks kernels or memory.
    """
    vocabulary = engine.manifest.dimensions.vocabulary
    ids = [7 * number % vocabulary for number in range(1, TRIAL_TOKENS + 1)]
    start = [0] if engine.manifest.has_encoder else ids
    decoder = engine.decoder([ids], len(start) + 2)
    try:
        logits = [decoder.prefill([start]).copy()]
        logits += [decoder.decode([token]).copy() for token in ids[:2]]
        return np.concatenate(logits)
    finally:
        decoder.close()


def _check_results(engine: Engine, manifest: Manifest, folder: Path) -> None:
    """Raise ``DeviceError`` unless the engine's device computes what the CPU computes.

    Execution providers of others may refuse a graph only when it runs, or copy the KV cache instead
    of writing to it.
    """
    try:
        found = _trial(engine)
    except DeviceError as error:
        cause = error.__cause__
        why = reason(cause if isinstance(cause, Exception) else error)
        raise DeviceError(
            f"The device {engine.device!r} cannot run this bundle ({why}): use 'cpu', or another "
            "version of the execution provider."
        ) from error
    dtype = engine.manifest.kv_cache.dtype
    cpu = open_on(
        CPU_DEVICE,
        ASKED_FOR,
        manifest,
        folder,
        threads=None,
        kv_cache=None if dtype == "float16" else dtype,
        verify=False,
        max_concurrent=1,
        mapped=True,
    )
    expected = _trial(cpu)
    cpu.close()
    difference = float(np.abs(found - expected).max())
    if not difference <= MOST_DIFFERENCE * float(np.ptp(expected)):  # NaN is wrong too
        raise DeviceError(
            f"The device {engine.device!r} computes other logits than the CPU (they differ by up "
            f"to {difference:.2g}): use 'cpu', or another version of the execution provider."
        )


def _device_memory(device: Device) -> Memory:
    return DeviceMemory(
        "cuda",
        device.number,
        partial(device_tensor, device),
        lambda graph: open_session(graph, device, 1),
    )


def _return_freed_memory() -> None:
    """Ask glibc to return the freed memory that it keeps to the system."""
    if sys.platform == "linux":
        import ctypes  # late: only a model that is closed needs it

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
