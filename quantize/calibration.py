"""Calibration: statistics of the layers' inputs and of the KV cache while a model reads a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.bundle.graph_contract import encoder_outputs, layer_names
from ..runtime.bundle.reading import Bundle
from ..runtime.ort.graph_session import GraphSession, open_session
from ..runtime.request.passages import Window
from .graph.network import Network
from .rounding import Curvature

Feeds = dict[str, NDArray[Any]]
BUDGET_BYTES = 1 << 30  # memory for the Hessians of one group
SAMPLE_ROWS = 512  # rows sampled per input


class Observed:
    """Statistics of a tensor that layers read, (tokens, features); rows are added part by part."""

    def __init__(self, features: int) -> None:
        self.hessian = np.zeros((features, features), np.float32)  # sum of x x^T over all rows x
        self.peaks = np.zeros(features, np.float32)  # largest magnitude of each feature
        self.rows = np.empty((0, features), np.float32)  # sample of the rows

    def add(self, rows: NDArray[np.float32], share: float) -> None:
        """Add ``rows`` to the statistics; keep about ``share * SAMPLE_ROWS`` of them."""
        self.hessian += rows.T @ rows
        self.peaks = np.maximum(self.peaks, np.abs(rows).max(axis=0))
        step = max(1, round(len(rows) / max(1.0, share * SAMPLE_ROWS)))
        self.rows = np.concatenate([self.rows, rows[step // 2 :: step]])

    @cached_property
    def curvature(self) -> Curvature:
        """The curvature for rounding the layers' weights; it is cached, so add all rows first."""
        return Curvature(self.hessian)

    def divide(self, factors: NDArray[np.float32]) -> None:
        """Change the statistics as if each channel had been divided by its factor."""
        self.hessian /= np.outer(factors, factors)
        self.peaks = self.peaks / factors
        self.rows = self.rows / factors


def observe(
    bundle: Bundle,
    networks: Mapping[str, Network],
    windows: Sequence[Window],
    progress: Callable[[str], None],
) -> Iterator[tuple[str, dict[str, Observed]]]:
    """Yield ``(role, {tensor: statistics})`` for the inputs of all layers but the lm_heads.

    The inputs come in groups whose Hessians fit into BUDGET_BYTES. The model reads the text once
    for each group.
    """
    encoded = _encode(bundle, windows)
    for role, network in networks.items():
        feeds = [_feeds(bundle, role, window, cross) for window, cross in encoded]
        groups = list(_groups(network))
        for number, group in enumerate(groups):
            progress(f"calibrating the {role} ({number + 1} of {len(groups)})")
            session = GraphSession(_with_outputs(network, group), folder=bundle.folder)
            observed = {name: Observed(size) for name, size in group.items()}
            for feed in feeds:
                for name, rows in zip(group, session.run(list(group), feed), strict=True):
                    observed[name].add(rows, 1 / len(feeds))
            yield role, observed


def cache_peaks(bundle: Bundle, windows: Sequence[Window]) -> dict[str, NDArray[np.float32]]:
    """Return the largest magnitude of each channel of the KV cache.

    The result is ``{"0.key": (heads, stored_head_size)}``.
    """
    names = layer_names(bundle.manifest.dimensions)
    outputs = [f"present.{name}" for name in names]
    session = _open(bundle, "decoder")
    peaks: dict[str, NDArray[np.float32]] = {}
    for window, cross in _encode(bundle, windows):
        feed = _feeds(bundle, "decoder", window, cross)
        for name, values in zip(names, session.run(outputs, feed), strict=True):
            peak = np.abs(values[0]).max(axis=1)
            peaks[name] = np.maximum(peak, peaks.get(name, peak))
    return peaks


def _open(bundle: Bundle, role: str) -> GraphSession:
    return open_session(bundle.file(bundle.manifest.graphs[role]))


def _encode(bundle: Bundle, windows: Sequence[Window]) -> list[tuple[Window, Feeds]]:
    """Return each window with its encoder outputs by name, which are empty without an encoder."""
    if not bundle.manifest.has_encoder:
        return [(window, {}) for window in windows]
    names = list(encoder_outputs(bundle.manifest.dimensions))
    session = _open(bundle, "encoder")
    encoded = []
    for window in windows:
        values = session.run(names, _feeds(bundle, "encoder", window, {}))
        encoded.append((window, dict(zip(names, values, strict=True))))
    return encoded


def _feeds(bundle: Bundle, role: str, window: Window, cross: Feeds) -> Feeds:
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
        size = len(network.weights[layer.weight])
        if group and layer.input not in group and used + 4 * size * size > BUDGET_BYTES:
            yield group
            group, used = {}, 0
        if layer.input not in group:
            group[layer.input] = size
            used += 4 * size * size
    if group:
        yield group


def _with_outputs(network: Network, names: Mapping[str, int]) -> bytes:
    """Return the network's graph, serialized, with the tensors ``names`` as further outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for name, size in names.items():
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, size])
        model.graph.output.append(value)
    data: bytes = model.SerializeToString()
    return data
