"""The graphs of a bundle as something that makes decoders: where the two kinds of model differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from edgeseq.runtime.background import together
from edgeseq.runtime.decoder import NewDecoder
from edgeseq.runtime.errors import BundleError, OptionError
from edgeseq.runtime.graph_contract import check_graph
from edgeseq.runtime.manifest import (
    DECODERS,
    MANIFEST_NAME,
    ROLES,
    CacheDtype,
    CacheFormat,
    Manifest,
)
from edgeseq.runtime.memory import CpuMemory, Memory
from edgeseq.runtime.onnx_decoder import OnnxDecoder
from edgeseq.runtime.onnx_encoder import OnnxEncoder
from edgeseq.runtime.onnx_runtime import (
    Session,
    map_shared_weights,
    open_session,
    thread_count,
)
from edgeseq.runtime.prepacked import prepacked_graph
from edgeseq.runtime.shared_sessions import shared_session
from edgeseq.runtime.weights_file import WEIGHTS_FILE_NAME


def open_engine(
    manifest: Manifest,
    folder: Path,
    *,
    device: str = "cpu",
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
    manifest = with_cache(manifest, kv_cache or manifest.kv_cache.dtype)
    weights = manifest.shared_weights
    if any(weight.rows != manifest.dimensions.vocabulary for weight in weights.values()):
        raise BundleError(
            f"{MANIFEST_NAME} shares a weight that is no embedding: export the bundle again."
        )
    weights_file = folder / WEIGHTS_FILE_NAME
    shared = map_shared_weights(weights_file, weights)

    def open_checked(role: str) -> Session:
        graph = folder / manifest.graphs[role]
        if prepack:
            graph = prepacked_graph(folder, manifest, role, shared, verify=verify)
        session = shared_session(
            (graph, weights_file),
            (device, thread_count(threads)),
            lambda: open_session(graph, device, threads, shared),
        )
        check_graph(session, role, manifest)
        return session

    sessions = together({role: partial(open_checked, role) for role in ROLES[manifest.kind]})
    return engine(manifest, sessions)


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
    if manifest.kind == "decoder-only":
        return lambda prompts, capacity: OnnxDecoder(
            session, manifest, memory, rows=len(prompts), capacity=capacity
        )
    encoder = OnnxEncoder(sessions["encoder"], manifest, memory)
    return lambda sources, capacity: OnnxDecoder(
        session,
        manifest,
        memory,
        rows=len(sources),
        capacity=capacity,
        sources=encoder.encode(sources),
    )
