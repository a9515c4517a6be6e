"""Round the weights of a quantized bundle, and write its files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.bundle.manifest import DECODERS, CacheFormat, Manifest, Quantization
from ..runtime.bundle.reading import Bundle
from ..runtime.bundle.weights_file import WEIGHTS_FILE_NAME, WeightsFile
from ..runtime.request.passages import Window
from .calibration import observe
from .graph.cuda import for_cuda
from .graph.float16_cache import with_float16_cache
from .graph.int8_cache import with_int8_cache
from .graph.network import Network
from .graph.rewriting import rewrite
from .recipes import Recipe
from .smoothing import smooth
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
        """The names of the rounded layers and tables that are not kept in higher precision yet."""
        names = weight_names(self.networks)
        kept = self.recipe.kept_layers
        return [name for name in names if name in self.rounded and name not in kept]

    def write(self, folder: Path) -> Manifest:
        """Write all files but the manifest into ``folder``; return the manifest."""
        manifest = self.source.manifest
        graphs = {role: manifest.graphs[role] for role in self.networks}
        with WeightsFile(folder / WEIGHTS_FILE_NAME) as weights_file:
            for role, network in self.networks.items():
                graph = rewrite(network, self.rounded, weights_file)
                model = graph.model()
                if role == "encoder" and self._runs_on_cuda:
                    for_cuda(model)
                onnx.save(model, folder / graphs[role])
                if role == "decoder":
                    per_token = graph.weights_per_run_bytes
                    cached = with_int8_cache(model, self.cache_peaks)
                    onnx.save(cached, folder / INT8_CACHE_DECODER)
                    if self._runs_on_cuda:
                        half = with_float16_cache(model)
                        for_cuda(half)
                        onnx.save(half, folder / FLOAT16_CACHE_DECODER)
                        graphs[DECODERS["float16"]] = FLOAT16_CACHE_DECODER
        if manifest.tokenizer.file is not None:
            shutil.copyfile(
                self.source.file(manifest.tokenizer.file), folder / manifest.tokenizer.file
            )
        return replace(
            manifest,
            graphs={**graphs, DECODERS["int8"]: INT8_CACHE_DECODER},
            kv_cache=CacheFormat(dtype=self.recipe.kv_cache),
            shared_weights={},
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
    divided: Mapping[str, NDArray[np.float32]],
    progress: Callable[[str], None],
) -> dict[str, Rounded]:
    """Return all weights of layers and tables that the recipe rounds, by name.

    ``divided``: the factors by which ``equalize`` divided the inputs of decoder layers, by input.
    """
    rounded: dict[str, Rounded] = {}
    for role, observed in observe(source, networks, windows, progress):
        network, in_steps = networks[role], role == "decoder" and "encoder" in networks
        bits = (recipe.step_layer if in_steps else recipe.layer).smoothing_bits
        progress(f"rounding the weights of the {role}")
        for name, seen in observed.items():
            if role == "decoder" and name in divided:
                seen.divide(divided[name])
            if bits is not None:
                factors = smooth(network, name, seen.peaks, seen.rows, bits=bits)
                if factors is not None:
                    seen.divide(factors)
        for layer in network.layers.values():
            if layer.input in observed and not layer.is_table:
                storage = recipe.storage(layer.weight, in_steps=in_steps)
                curvature = observed[layer.input].curvature
                if found := round_to(network.weights[layer.weight], storage, curvature):
                    rounded[layer.weight] = found
    for network in networks.values():
        for name in table_names({"": network}) - rounded.keys():
            storage = recipe.storage(name, is_table=True)
            if found := round_to(network.weights[name].T, storage, None):
                rounded[name] = found
    return rounded


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
