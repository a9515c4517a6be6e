"""How much of the disk a quantization needs, to be checked before the work starts."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ...runtime.bundle.manifest import Manifest
from ..graph.network import Network
from ..recipes import Recipe, stored_weights
from ..texts import TOKENS


def needed_bytes(recipe: Recipe, networks: Mapping[str, Network], manifest: Manifest) -> int:
    """Return the most bytes on the disk at once, roughly.

    These are the rounded weights, a draft that is measured, and the new bundle; with an encoder
    also what it makes of the calibration text.
    """
    weights = stored_weights(recipe, networks)
    others = [
        network.weights.shape(name)
        for network in networks.values()
        for name in network.weights.keys() - weights.keys()
    ]
    stored = sum(weight.storage.stored_bytes(*weight[1:]) for weight in weights.values())
    stored += sum(4 * prod(shape) for shape in others)
    codes = sum(w.inputs * w.outputs for w in weights.values() if w.storage.has_codes)
    sizes = manifest.dimensions
    sources = 2 * 4 * sizes.layers * sizes.heads * sizes.head_size * TOKENS
    return codes + 2 * stored + sources * manifest.has_encoder
