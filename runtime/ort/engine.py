"""The graphs of a bundle as something that makes decoders: where the two kinds of model differ."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ..bundle.graph_contract import check_graph
from ..bundle.manifest import DECODERS, MANIFEST_NAME, ROLES, CacheDtype, CacheFormat, Manifest
from ..bundle.weights_file import WEIGHTS_FILE_NAME
from ..concurrency.background import together
from ..concurrency.locks import Slots
from ..decoder import Decoder, NewDecoder
from ..errors import BundleError, DeviceError, EdgeseqError, OptionError
from .devices import AUTO, CPU, CUDA, Device, parse_device
from .graph_session import (
    GraphSession,
    map_shared_weights,
    open_session,
    shared_session,
    thread_count,
)
from .memory import CpuMemory, DeviceLogits, DeviceMemory, Memory
from .onnx_decoder import OnnxDecoder
from .onnx_encoder import OnnxEncoder
from .prepacked import prepacked_graph
from .providers import check_build, device_tensor


def open_engine(
    manifest: Manifest,
    folder: Path,
    *,
    device: Device | str = "cpu",
    threads: int | None = None,
    kv_cache: CacheDtype | None = None,
    prepack: bool = False,
    verify: bool = False,
) -> NewDecoder:
    """Sessions over the graphs of the bundle in ``folder``, which the decoders share.

    ``kv_cache``: what the cache holds; None: the bundle's default. ``prepack``: from the user's
    cache folder (``prepacked.py``), which ``verify`` checks too. Raises ``DeviceError`` for a
    device that is not there, ``OptionError`` for a cache that the bundle has no graph for,
    ``BundleError`` for a broken graph.
    """
    device = parse_device(device)
    check_build(device)
    if prepack and device.provider != CPU:
        raise OptionError(f"prepack has no effect on the device {device.name!r}: leave it out.")
    manifest = with_cache_on(device, manifest, kv_cache)
    weights = manifest.shared_weights
    if any(weight.rows != manifest.dimensions.vocabulary for weight in weights.values()):
        raise BundleError(
            f"{MANIFEST_NAME} shares a weight that is no embedding: export the bundle again."
        )
    weights_file = folder / WEIGHTS_FILE_NAME
    shared = map_shared_weights(weights_file, weights)

    def open_checked(role: str) -> GraphSession:
        graph = folder / manifest.graphs[role]
        if prepack:
            graph = prepacked_graph(folder, manifest, role, shared, verify=verify)
        session = shared_session(
            (graph, weights_file),
            (device.key, thread_count(threads)),
            lambda: open_session(graph, device, threads, shared),
        )
        check_graph(session, role, manifest)
        return session

    sessions = together({role: partial(open_checked, role) for role in ROLES[manifest.kind]})
    memory = None if device.provider != CUDA else _device_memory(device)
    return engine(manifest, sessions, memory)


def with_cache_on(device: Device, manifest: Manifest, dtype: CacheDtype | None) -> Manifest:
    """``with_cache`` of what a device has kernels for; None: its default.

    Raises ``OptionError`` for another, ``DeviceError`` for a bundle without a graph for the device.
    """
    if device.provider == CUDA and dtype not in (None, "float16"):
        raise OptionError(
            f"kv_cache is {dtype!r}; the device {device.name!r} has kernels for 'float16' "
            "alone: leave it out."
        )
    return with_cache(manifest, dtype or default_cache(manifest, device))


def default_cache(manifest: Manifest, device: Device) -> CacheDtype:
    """What the cache holds there where nobody says; ``DeviceError`` without a graph for it."""
    if device.provider != CUDA:
        return manifest.kv_cache.dtype
    if DECODERS["float16"] not in manifest.graphs:
        raise DeviceError(
            f"The bundle has no graph for the device {device.name!r}: make one that has from the "
            "float32 bundle (`edgeseq quantize BUNDLE OUT --recipe fp16`, int8-weights or int4)."
        )
    return "float16"


class Opened(NamedTuple):
    """Decoders, and what they compute on."""

    new_decoder: NewDecoder
    device: str
    why: str  # that device


def open_engine_on(
    device: str,
    options: Mapping[str, Any] | None,
    library: str | os.PathLike[str] | None,
    manifest: Manifest,
    folder: Path,
    **settings: Any,
) -> Opened:
    """``open_engine`` on the device of a name; of "auto" CUDA where sessions open there."""
    if device != AUTO:
        asked = parse_device(device, options, library)
        opened = open_engine(manifest, folder, device=asked, **settings)
        return Opened(opened, device, "it was asked for")
    if options is not None or library is not None:
        name = "provider_options" if options is not None else "provider_library"
        raise OptionError(f"{name} belongs to one device: name it in place of 'auto'.")
    try:
        there = {name: value for name, value in settings.items() if name != "prepack"}
        opened = open_engine(manifest, folder, device="cuda", **there)
        _try(opened)
    except (BundleError, DeviceError, OptionError) as error:
        opened = open_engine(manifest, folder, **settings)
        return Opened(opened, "cpu", str(error))
    return Opened(opened, "cuda", "the bundle's graphs run there")


def _try(new_decoder: NewDecoder) -> None:
    """A token and the next: whether there are kernels for this very device, and memory."""
    decoder = new_decoder([[0]], 2)
    try:
        decoder.keep_best(1)
        decoder.prefill([[0]])
        decoder.decode([0])
    finally:
        decoder.close()


def _device_memory(device: Device) -> Memory:
    return DeviceMemory(
        "cuda",
        device.number,
        partial(device_tensor, device),
        lambda graph: open_session(graph, device, 1),
    )


def with_cache(manifest: Manifest, dtype: CacheDtype) -> Manifest:
    """``manifest`` with the decoder's graph whose cache holds ``dtype``."""
    check_cache(dtype)
    graph = manifest.graphs.get(DECODERS[dtype])
    if graph is None:
        raise OptionError(
            f"The bundle has no graph for a cache of {dtype}: use {graphs_for(manifest)}, or make "
            "one that has with `edgeseq quantize`."
        )
    graphs = {**manifest.graphs, "decoder": graph}
    return replace(manifest, graphs=graphs, kv_cache=CacheFormat(dtype=dtype))


def check_cache(dtype: CacheDtype) -> None:
    """Raise ``OptionError`` for what no cache holds."""
    if dtype not in get_args(CacheDtype):
        raise OptionError(f"kv_cache is {dtype!r}; it must be {_either(get_args(CacheDtype))}.")


def graphs_for(manifest: Manifest) -> str:
    """What the cache of a bundle can hold, in words."""
    return _either(tuple(dtype for dtype, role in DECODERS.items() if role in manifest.graphs))


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))


def engine(
    manifest: Manifest, sessions: Mapping[str, Any], memory: Memory | None = None
) -> NewDecoder:
    """Decoders over ``sessions``, by the roles of the manifest's kind.

    ``memory``: where their caches live; None: the machine's main memory.
    """
    memory = memory or CpuMemory()
    session = sessions["decoder"]
    device_logits = None
    if isinstance(memory, DeviceMemory):
        device_logits = partial(DeviceLogits, memory, vocabulary=manifest.dimensions.vocabulary)
    if manifest.kind == "decoder-only":
        return lambda prompts, capacity: OnnxDecoder(
            session,
            manifest,
            memory,
            rows=len(prompts),
            capacity=capacity,
            device_logits=device_logits,
        )
    encoder = OnnxEncoder(sessions["encoder"], manifest, memory)
    return lambda sources, capacity: OnnxDecoder(
        session,
        manifest,
        memory,
        rows=len(sources),
        capacity=capacity,
        sources=encoder.prepare(sources),
        device_logits=device_logits,
    )


MAX_CONCURRENT = 16
CLOSED = "The model is closed: load it again."


class Loaded:
    """Makes decoders until it is closed, in the process that loaded it.

    ``max_concurrent``: how many generations may be under way, each with a cache of its own.
    """

    def __init__(self, new_decoder: NewDecoder, max_concurrent: int = MAX_CONCURRENT) -> None:
        self._new_decoder: NewDecoder | None = new_decoder
        self._is_closed = False
        self._process = os.getpid()
        self.device, self.device_reason = "cpu", "it was asked for"
        self.places = Slots(max_concurrent)

    def __call__(self, prompts: Sequence[Sequence[int]], capacity: int) -> Decoder:
        new_decoder = self._new_decoder
        if new_decoder is None:
            raise EdgeseqError(CLOSED)
        return new_decoder(prompts, capacity)

    def check(self) -> None:
        """Raise ``EdgeseqError`` where no call may begin."""
        if self._is_closed:
            raise EdgeseqError(CLOSED)
        if os.getpid() != self._process:
            raise EdgeseqError(
                "The model was loaded before this process was forked, and its threads are not "
                "here: load it in this process."
            )

    def close(self) -> None:
        """Let no call begin, and let go of the weights when those that have begun have ended."""
        self._is_closed = True
        self.places.when_empty(self._let_go)

    def _let_go(self) -> None:
        self._new_decoder = None
        _return_freed_memory()


def _return_freed_memory() -> None:
    """Ask glibc for what it keeps of freed memory for the next time it is asked for some."""
    if sys.platform == "linux":
        import ctypes  # late: only a model that is closed needs it

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
