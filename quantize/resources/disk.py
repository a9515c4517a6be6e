"""How much of the disk a quantization needs, to be checked before the work starts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...runtime.bundle.manifest import Manifest
from ..graph.network import Network
from ..recipes import Recipe
from ..texts import TOKENS
from ..weight_storages import Storage


def needed_bytes(recipe: Recipe, networks: Mapping[str, Network], manifest: Manifest) -> int:
    """Return the most bytes on the disk at once, roughly.

    These are the rounded weights, a draft that is measured, and the new bundle; with an encoder
    also what it makes of the calibration text.
    """
    storages: dict[str, tuple[Storage, int, int]] = {}
    others = 0
    for role, network in networks.items():
        in_steps = role == "decoder" and "encoder" in networks
        tables = {layer.weight for layer in network.layers.values() if layer.is_table}
        tables.update(network.tables.values())
        layers = {layer.weight for layer in network.layers.values()} - tables
        for name in (*tables, *layers):
            storage = recipe.storage(
                name,
                is_table=name in tables,
                in_steps=in_steps,
                is_large=name in network.large,
            )
            first, second = network.weights.shape(name)
            storages[name] = (
                (storage, second, first) if name in tables else (storage, first, second)
            )
        for name in network.weights.keys() - tables - layers:
            others += 4 * int(np.prod(network.weights.shape(name)))
    stored = sum(storage.stored_bytes(*shape) for storage, *shape in storages.values()) + others
    codes = sum(
        inputs * outputs for storage, inputs, outputs in storages.values() if storage.has_codes
    )
    sizes = manifest.dimensions
    sources = 2 * 4 * sizes.layers * sizes.heads * sizes.head_size * TOKENS
    return codes + 2 * stored + sources * manifest.has_encoder
