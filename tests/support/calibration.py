"""What calibration observes in a bundle, and the peaks of a KV cache computed another way."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq.quantize.calibration import Observation, graph_inputs, observe
from edgeseq.quantize.graph.network import Network
from edgeseq.quantize.resources.scratch import Scratch
from edgeseq.quantize.resources.workers import Workers
from edgeseq.runtime.bundle.graph_contract import encoder_outputs, layer_names
from edgeseq.runtime.bundle.manifest import ROLES
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.ort.graph_session import open_session
from edgeseq.runtime.request.passages import Window


def observations(
    bundle: Bundle, windows: Sequence[Window], networks: Mapping[str, Network] | None = None
) -> list[Observation]:
    """Return the statistics of all parts; ``networks``: None for those of the bundle."""
    if networks is None:
        networks = {role: Network(bundle, role) for role in ROLES[bundle.manifest.kind]}
    with (
        tempfile.TemporaryDirectory() as folder,
        Scratch(Path(folder)) as scratch,
        Workers(1) as workers,
    ):
        return list(observe(bundle, networks, windows, scratch, workers))


def cache_peaks(bundle: Bundle, windows: Sequence[Window]) -> dict[str, NDArray[np.float32]]:
    """Return the largest magnitudes in the KV cache, from runs of the whole graphs."""
    sizes, graphs = bundle.manifest.dimensions, bundle.manifest.graphs
    names = layer_names(sizes)
    decoder = open_session(bundle.file(graphs["decoder"]), threads=1)
    peaks: dict[str, NDArray[np.float32]] = {}
    for window in windows:
        cross: dict[str, NDArray[Any]] = {}
        if bundle.manifest.has_encoder:
            encoder = open_session(bundle.file(graphs["encoder"]), threads=1)
            outputs = list(encoder_outputs(sizes))
            found = encoder.run(outputs, graph_inputs(bundle, "encoder", window, {}))
            cross = dict(zip(outputs, found, strict=True))
        feed = graph_inputs(bundle, "decoder", window, cross)
        values = decoder.run([f"present.{name}" for name in names], feed)
        for name, value in zip(names, values, strict=True):
            peak = np.abs(value[0]).max(axis=1)
            peaks[name] = np.maximum(peak, peaks.get(name, peak))
    return peaks
