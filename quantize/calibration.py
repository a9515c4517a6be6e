"""Calibration: statistics of the layers' inputs and of the KV cache while a model reads a text.

The graph runs part by part. A part has the layers whose statistics fit into BUDGET_BYTES, and reads
the activations that the part before it left for each window. So each window is read once, and the
memory does not grow with the number of layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.bundle.graph_contract import encoder_outputs, layer_names
from ..runtime.bundle.reading import Bundle
from ..runtime.ort.graph_session import WITHOUT_PACKING, GraphSession
from ..runtime.request.passages import Window
from .graph.attentions import attentions
from .graph.network import Network
from .graph.parts import Part, part_model, parts
from .resources.scratch import Scratch
from .resources.workers import Workers
from .rounding import Curvature

Feeds = dict[str, NDArray[Any]]
BUDGET_BYTES = 1 << 27  # memory for the Hessians of one part
BUFFERED_ROWS = 1024  # rows that are added to a Hessian at once
SAMPLE_ROWS = 512  # rows sampled per input


class Observed:
    """Statistics of a tensor that layers read, (tokens, features); rows are added part by part."""

    def __init__(self, features: int) -> None:
        self.peaks = np.zeros(features, np.float32)  # largest magnitude of each feature
        self.rows = np.empty((0, features), np.float32)  # sample of the rows
        self._hessian = np.zeros((features, features), np.float32)
        self._buffer: list[NDArray[np.float32]] = []
        self._buffered = 0

    def add(self, rows: NDArray[np.float32], share: float) -> None:
        """Add ``rows`` to the statistics; keep about ``share * SAMPLE_ROWS`` of them."""
        self.peaks = np.maximum(self.peaks, np.abs(rows).max(axis=0))
        step = max(1, round(len(rows) / max(1.0, share * SAMPLE_ROWS)))
        self.rows = np.concatenate([self.rows, rows[step // 2 :: step]])
        self._buffer.append(rows)
        self._buffered += len(rows)
        if self._buffered >= BUFFERED_ROWS:
            self._flush()

    @property
    def hessian(self) -> NDArray[np.float32]:
        """The sum of x x^T over all rows x, (features, features)."""
        self._flush()
        return self._hessian

    def curvature(self) -> Curvature:
        """Return the curvature for rounding the layers' weights."""
        return Curvature(self.hessian)

    def divide(self, factors: NDArray[np.float32]) -> None:
        """Change the statistics as if each channel had been divided by its factor."""
        self._flush()
        self._hessian /= factors
        self._hessian /= factors[:, None]
        self.peaks = self.peaks / factors
        self.rows = self.rows / factors

    def _flush(self) -> None:
        if self._buffer:
            rows = self._buffer[0] if len(self._buffer) == 1 else np.concatenate(self._buffer)
            self._hessian += rows.T @ rows
            self._buffer, self._buffered = [], 0


@dataclass(frozen=True)
class Observation:
    """The statistics of one part of a graph."""

    role: str
    inputs: dict[str, Observed]  # by the name of the tensor that layers read
    cache_peaks: Mapping[str, NDArray[np.float32]]  # {"0.key": (heads, stored_head_size)}


def observe(
    bundle: Bundle,
    networks: Mapping[str, Network],
    windows: Sequence[Window],
    scratch: Scratch,
    workers: Workers,
) -> Iterator[Observation]:
    """Yield the statistics of the inputs of all layers but the lm_heads, part by part.

    ``cache_peaks`` are the largest magnitudes of each channel of the KV cache of the part's
    attentions.
    """
    crosses: list[Feeds] = [{} for _ in windows]  # encoder outputs of each window
    for role, network in networks.items():
        feeds = [
            graph_inputs(bundle, role, window, cross)
            for window, cross in zip(windows, crosses, strict=True)
        ]
        model = onnx.ModelProto()  # a copy, since smoothing may add nodes to the network
        model.CopyFrom(network.model)
        groups = list(_groups(network))
        caches = [_caches(network, group, group is groups[-1]) for group in groups]
        wanted = [
            [*group, *(f"present.{name}" for name in cache)]
            for group, cache in zip(groups, caches, strict=True)
        ]
        outputs = list(encoder_outputs(bundle.manifest.dimensions)) if role == "encoder" else []
        *plan, last = parts(model.graph, [*wanted, outputs])
        for part, group, cache in zip(plan, groups, caches, strict=True):
            inputs = {name: Observed(size) for name, size in group.items()}
            peaks: dict[str, NDArray[np.float32]] = {}
            for values in _run(model, bundle, part, feeds, workers.threads):
                seen = [(inputs[name], values[name], 1 / len(feeds)) for name in group]
                list(workers.map(_add, seen))
                for name in cache:
                    peak = np.abs(values[f"present.{name}"][0]).max(axis=1)
                    peaks[name] = np.maximum(peak, peaks.get(name, peak))
            yield Observation(role, inputs, peaks)
        crosses = [
            {name: scratch.keep(values[name]) for name in outputs}
            for values in _run(model, bundle, last, feeds, workers.threads)
        ]


def _add(seen: tuple[Observed, NDArray[np.float32], float]) -> None:
    inputs, rows, share = seen
    inputs.add(rows, share)


def _run(
    model: onnx.ModelProto, bundle: Bundle, part: Part, feeds: Sequence[Feeds], threads: int
) -> Iterator[Feeds]:
    """Run a part over all windows; yield all values of each window.

    ``feeds``: graph inputs and activations of earlier parts, by window. They are
    replaced by the values that later parts need.
    """
    if not part.nodes:
        yield from feeds
        return
    graph = part_model(model, part, feeds[0])
    session = GraphSession(graph, threads=threads, folder=bundle.folder, entries=WITHOUT_PACKING)
    read = [value.name for value in session.get_inputs()]
    made = [value.name for value in session.get_outputs()]
    graph_inputs = {value.name for value in model.graph.input}
    for feed in feeds:
        found = session.run(made, {name: feed[name] for name in read})
        values = {**feed, **dict(zip(made, found, strict=True))}
        yield values
        kept = graph_inputs.union(part.carried)
        for name in feed.keys() - kept:
            del feed[name]
        feed.update((name, values[name]) for name in part.carried)


def graph_inputs(bundle: Bundle, role: str, window: Window, cross: Feeds) -> Feeds:
    """Return a graph's inputs: one row, an empty KV cache, logits at every position."""
    source = {"source_lengths": np.array([len(window.source)], np.int32)}
    if role == "encoder":
        return {"input_ids": np.array([window.source], np.int64), **source}
    sizes = bundle.manifest.dimensions
    ids = np.array([window.tokens], np.int64)[:, : sizes.max_positions]
    n = ids.shape[1]
    empty = np.zeros((1, sizes.heads, n, sizes.stored_head_size), np.float32)
    return {
        "input_ids": ids,
        "position_ids": np.arange(n, dtype=np.int64)[None],
        "seqlens_k": np.array([n - 1], np.int32),
        "total_sequence_length": np.array(n, np.int32),
        "logits_at": np.arange(n, dtype=np.int64),
        **{f"past_key_values.{name}": empty for name in layer_names(sizes)},
        **({**source, **cross} if cross else {}),
    }


def _groups(network: Network) -> Iterator[dict[str, int]]:
    """Yield ``{tensor: features}`` for the inputs of layers, in groups within BUDGET_BYTES."""
    group: dict[str, int] = {}
    used = 0
    for layer in network.layers.values():
        if layer.is_table:
            continue
        size = network.weights.shape(layer.weight)[0]
        if group and layer.input not in group and used + 4 * size * size > BUDGET_BYTES:
            yield group
            group, used = {}, 0
        if layer.input not in group:
            group[layer.input] = size
            used += 4 * size * size
    if group:
        yield group


def _caches(network: Network, group: Mapping[str, int], is_last: bool) -> list[str]:
    """Return the names of keys and values in the KV cache whose layers read tensors of a group.

    The last group also has the keys and values that no single layer computes.
    """
    weights = {layer.weight for layer in network.layers.values() if layer.input in group}
    names = []
    for attention in attentions(network):
        layer = attention.key or attention.value
        if is_last if layer is None else layer.weights[0] in weights:
            names += [attention.keys, attention.values]
    return names
