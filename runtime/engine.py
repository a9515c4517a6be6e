"""The graphs of a bundle as something that makes decoders: where the two kinds of model differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseq.runtime.decoder import NewDecoder
from edgeseq.runtime.errors import BundleError
from edgeseq.runtime.graph_contract import check_graph
from edgeseq.runtime.manifest import MANIFEST_NAME, ROLES, Manifest
from edgeseq.runtime.memory import CpuMemory
from edgeseq.runtime.onnx_decoder import OnnxDecoder
from edgeseq.runtime.onnx_encoder import OnnxEncoder
from edgeseq.runtime.onnx_runtime import map_shared_weights, open_session
from edgeseq.runtime.weights_file import WEIGHTS_FILE_NAME


def open_engine(
    manifest: Manifest, folder: Path, *, device: str = "cpu", threads: int | None = None
) -> NewDecoder:
    """Sessions over the graphs of the bundle in ``folder``, which the decoders share.

    Raises ``DeviceError`` for a device that is not there, ``BundleError`` for a broken graph.
    """
    weights = manifest.shared_weights
    if any(weight.rows != manifest.dimensions.vocabulary for weight in weights.values()):
        raise BundleError(
            f"{MANIFEST_NAME} shares a weight that is no embedding: export the bundle again."
        )
    shared = map_shared_weights(folder / WEIGHTS_FILE_NAME, weights)
    sessions = {}
    for role in ROLES[manifest.kind]:
        sessions[role] = open_session(folder / manifest.graphs[role], device, threads, shared)
        check_graph(sessions[role], role, manifest)
    return engine(manifest, sessions)


def engine(manifest: Manifest, sessions: Mapping[str, Any]) -> NewDecoder:
    """Decoders over ``sessions``, by the roles of the manifest's kind."""
    memory = CpuMemory()
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
