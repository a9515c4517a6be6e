"""Round the weights of a quantized bundle, and write its files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.bundle.initializers import overlapping_weights
from ..runtime.bundle.manifest import (
    DECODERS,
    WEIGHTS_FILE_NAME,
    CacheFormat,
    Manifest,
    Quantization,
)
from ..runtime.bundle.reading import Bundle
from ..runtime.bundle.weights_file import WeightsFile
from ..runtime.request.passages import Window
from .calibration import Observed, observe
from .equalizing import equalize
from .graph.cuda import for_cuda
from .graph.float16_cache import with_float16_cache
from .graph.int8_cache import with_int8_cache
from .graph.network import Layer, Network
from .graph.rewriting import rewrite
from .graph.writer import PooledWeights
from .recipes import Recipe
from .resources.scratch import Scratch
from .resources.workers import Workers
from .smoothing import smooth, smoothing_factors
from .weight_storages import Rounded, RoundedWeights, round_to

INT8_CACHE_DECODER = "decoder_int8_cache.onnx"
FLOAT16_CACHE_DECODER = "decoder_float16_cache.onnx"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The draft of a quantized bundle: its source bundle and the rounded weights."""

    source: Bundle
    networks: Mapping[str, Network]
    recipe: Recipe
    rounded: RoundedWeights
    errors: Mapping[str, float]  # squared errors of outputs, as shares of the squared outputs
    cache_peaks: Mapping[str, float]  # largest magnitude in the KV cache, by "0.key"

    def keeping(self, layers: Sequence[str]) -> Draft:
        """Return a copy with the weights ``layers`` in the recipe's storage for kept layers."""
        recipe = replace(self.recipe, kept_layers=self.recipe.kept_layers | {*layers})
        rounded = dict(self.rounded)
        tables = table_names(self.networks)
        for name in layers:
            weight = next(n.weights[name] for n in self.networks.values() if name in n.weights)
            del rounded[name]
            storage = recipe.storage(name, is_table=name in tables)
            if found := round_to(weight.T if name in tables else weight, storage, None):
                rounded[name] = found
        return replace(self, recipe=recipe, rounded=rounded)

    @property
    def keepable(self) -> list[str]:
        """The rounded layers and tables that are not kept in higher precision yet.

        Tables come first, because all layers read what comes of them. Then come the layers whose
        outputs have the largest errors.
        """
        names, tables = weight_names(self.networks), table_names(self.networks)
        kept = self.recipe.kept_layers
        found = [name for name in names if name in self.rounded and name not in kept]
        return sorted(found, key=lambda n: (n not in tables, -self.errors.get(n, 0.0)))

    def write(self, folder: Path, pool: PooledWeights | None = None) -> Manifest:
        """Write all files but the manifest into ``folder``; return the manifest.

        ``pool``: the folder's weights file, which already has the weights of other drafts; None: a
        new one, with the weights of this draft alone.
        """
        manifest = self.source.manifest
        graphs = {role: manifest.graphs[role] for role in self.networks}
        written: list[onnx.ModelProto] = []
        weights = nullcontext(pool) if pool else WeightsFile(folder / WEIGHTS_FILE_NAME)
        with weights as weights_file:
            for role, network in self.networks.items():
                graph = rewrite(network, self.rounded, weights_file)
                model = graph.model()
                if role == "encoder" and self._runs_on_cuda:
                    for_cuda(model)
                onnx.save(model, folder / graphs[role])
                written.append(model)
                if role == "decoder":
                    per_token = graph.weights_per_run_bytes
                    cached = with_int8_cache(model, self.cache_peaks)
                    onnx.save(cached, folder / INT8_CACHE_DECODER)
                    if self._runs_on_cuda:
                        half = with_float16_cache(model)
                        for_cuda(half)
                        onnx.save(half, folder / FLOAT16_CACHE_DECODER)
                        graphs[DECODERS["float16"]] = FLOAT16_CACHE_DECODER
            weights_file.flush()
        overlapping = overlapping_weights(written)
        if manifest.tokenizer.file is not None:
            shutil.copyfile(
                self.source.file(manifest.tokenizer.file), folder / manifest.tokenizer.file
            )
        return replace(
            manifest,
            graphs={**graphs, DECODERS["int8"]: INT8_CACHE_DECODER},
            kv_cache=CacheFormat(dtype=self.recipe.kv_cache),
            shared_weights={},
            overlapping_weights=overlapping or None,
            weights_per_token_bytes=per_token,
            quantization=Quantization(
                recipe=self.recipe.name,
                block_size=self.recipe.block_size,
                kept=self._kept(),
                quality=None,
            ),
            producers={**manifest.producers, **{n: version(n) for n in ("edgeseq", "onnx")}},
        )

    @property
    def _runs_on_cuda(self) -> bool:
        """Whether CUDA has kernels for all products; it has none for integer products."""
        return all(found.storage.runs_on_cuda for found in self.rounded.values())

    def _kept(self) -> dict[str, str]:
        tables = table_names(self.networks)
        return {
            name: str(self.recipe.storage(name, is_table=name in tables))
            for name in sorted(self.recipe.kept_layers)
        }


def round_weights(
    source: Bundle,
    networks: Mapping[str, Network],
    recipe: Recipe,
    windows: Sequence[Window],
    scratch: Scratch,
    workers: Workers,
    progress: Callable[[int], object] = lambda layers: None,
) -> Draft:
    """Return a draft with all weights that the recipe rounds.

    The networks' weights are changed in place, so that they lose less. Memory is needed for a few
    layers at a time: weights are mapped, and rounded ones go to ``scratch``. ``progress`` is called
    with the number of newly rounded layers and tables.
    """
    rounding = _Rounding(recipe, scratch, workers, progress)
    for found in observe(source, networks, windows, scratch, workers):
        in_steps = found.role == "decoder" and "encoder" in networks
        rounding.prepare(networks[found.role], found.inputs, found.cache_peaks, in_steps)
        rounding.round_layers(networks[found.role], found.inputs, in_steps)
    for network in networks.values():
        rounding.round_tables(network)
    return Draft(
        source=source,
        networks=networks,
        recipe=recipe,
        rounded=rounding.rounded,
        errors=rounding.errors,
        cache_peaks=rounding.peaks,
    )


class _Rounding:
    """The weights that are rounded so far."""

    def __init__(
        self,
        recipe: Recipe,
        scratch: Scratch,
        workers: Workers,
        progress: Callable[[int], object],
    ) -> None:
        self.rounded: dict[str, Rounded] = {}
        self.errors: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        self._divided: dict[str, NDArray[np.float32]] = {}  # factors that divided layers' inputs
        self._recipe = recipe
        self._scratch = scratch
        self._workers = workers
        self._progress = progress

    def prepare(
        self,
        network: Network,
        inputs: dict[str, Observed],
        cache_peaks: Mapping[str, NDArray[np.float32]],
        in_steps: bool,
    ) -> None:
        """Equalize the KV cache and smooth the inputs of layers: change their weights."""
        equalized = equalize(network, cache_peaks)
        self.peaks.update(equalized.peaks)
        self._divided.update(equalized.divided)
        for name in self._divided.keys() & inputs.keys():
            inputs[name].divide(self._divided[name])
        storage = self._recipe.step_layer if in_steps else self._recipe.layer
        if not storage.rounds_inputs:
            return

        def factors_of(name: str) -> NDArray[np.float32] | None:
            seen = inputs[name]
            return smoothing_factors(network, name, seen.peaks, seen.rows, storage)

        names = list(inputs)
        for name, factors in zip(names, self._workers.map(factors_of, names), strict=True):
            if factors is not None:
                inputs[name].divide(factors)
                inputs[smooth(network, name, factors)] = inputs.pop(name)

    def round_layers(self, network: Network, inputs: dict[str, Observed], in_steps: bool) -> None:
        """Round the weights of the layers that read ``inputs``, which are used up."""
        layers: dict[str, list[Layer]] = {}
        for layer in network.layers.values():
            if layer.input in inputs and not layer.is_table:
                layers.setdefault(layer.input, []).append(layer)

        def round_all(name: str) -> dict[str, tuple[Rounded, float]]:
            seen, found = inputs.pop(name), {}
            curvature = seen.curvature()
            for layer in layers[name]:
                storage = self._recipe.storage(
                    layer.weight, in_steps=in_steps, is_large=layer.weight in network.large
                )
                weight = np.asarray(network.weights[layer.weight])
                if rounded := round_to(weight, storage, curvature):
                    error = storage.output_error(weight, rounded.codes, seen.rows)
                    found[layer.weight] = self._kept(rounded), error
            return found

        largest_first = sorted(layers, key=lambda name: -len(inputs[name].peaks))
        results = self._workers.map(round_all, largest_first)
        for name, found in zip(largest_first, results, strict=True):
            for weight, (rounded, error) in found.items():
                self.rounded[weight], self.errors[weight] = rounded, error
            self._progress(len(layers[name]))

    def round_tables(self, network: Network) -> None:
        """Round the embeddings and the lm_head to the nearest codes."""
        for name in sorted(table_names({"": network}) - self.rounded.keys()):
            storage = self._recipe.storage(name, is_table=True)
            weight = network.weights[name].T
            if rounded := round_to(weight, storage, None, self._workers.map):
                self.rounded[name] = self._kept(rounded)
                self.errors[name] = storage.output_error(weight, rounded.codes, None)
            self._progress(1)

    def _kept(self, rounded: Rounded) -> Rounded:
        """Return ``rounded`` with its codes in the temporary file."""
        if rounded.codes is None:
            return rounded
        codes = replace(rounded.codes, codes=self._scratch.keep(rounded.codes.codes))
        return rounded._replace(codes=codes)


def weight_names(networks: Mapping[str, Network]) -> list[str]:
    """Return the names of all weights that a recipe stores: linear layers, then tables."""
    return [*linear_names(networks), *sorted(table_names(networks))]


def linear_names(networks: Mapping[str, Network]) -> list[str]:
    """Return the names of the linear layers' weights, without lm_heads."""
    return [
        layer.weight
        for network in networks.values()
        for layer in network.layers.values()
        if not layer.is_table
    ]


def table_names(networks: Mapping[str, Network]) -> set[str]:
    """Return the names of the embeddings and lm_heads."""
    names: set[str] = set()
    for network in networks.values():
        names.update(layer.weight for layer in network.layers.values() if layer.is_table)
        names.update(network.tables.values())
    return names
