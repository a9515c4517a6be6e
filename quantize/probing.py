"""Which recipe runs a model fastest on this machine: measured with graphs of the model's size.

The weights of these graphs are zeros: the speed depends on their number and form alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from ..runtime.bundle.reading import Bundle
from ..runtime.decoder import NewDecoder
from ..runtime.ort.engine import open_engine
from .draft import Draft
from .graph.attentions import attentions
from .graph.network import Network
from .recipes import Recipe, stored_weights
from .rounding import Codes
from .weight_storages import Rounded, Storage

TOKENS = 128  # of the prompt or the source, and after it
STEPS = 16  # decode steps that are measured in a round
ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """The measured speed of a recipe."""

    recipe: Recipe
    tokens_per_second: float


def by_speed(
    source: Bundle,
    networks: Mapping[str, Network],
    recipes: Sequence[Recipe],
    folder: Path,
    threads: int | None,
) -> list[Speed]:
    """Return the speeds of ``recipes`` on this machine, the fastest first.

    The speed is that of one text: TOKENS tokens of a prompt (of a source, for an encoder-decoder
    model), or as many as the model has positions for, and TOKENS new tokens. The recipes take
    turns; the median of the rounds counts.
    ``folder``: where temporary bundles are written.
    """
    seconds: dict[str, list[float]] = {recipe.name: [] for recipe in recipes}
    with TemporaryDirectory(dir=folder) as temporary:
        measure = {
            recipe.name: _timer(source, networks, recipe, Path(temporary) / recipe.name, threads)
            for recipe in recipes
        }
        for number in range(ROUNDS + 1):
            for name in list(measure)[:: -1 if number % 2 else 1]:
                taken = measure[name]()
                if number:  # the first round is a warm-up
                    seconds[name].append(taken)
        measure.clear()  # closes the files before they are deleted
    found = [Speed(recipe, TOKENS / median(seconds[recipe.name])) for recipe in recipes]
    return sorted(found, key=lambda speed: -speed.tokens_per_second)


def _timer(
    source: Bundle,
    networks: Mapping[str, Network],
    recipe: Recipe,
    folder: Path,
    threads: int | None,
) -> Callable[[], float]:
    """Return a function that measures the seconds for one text."""
    folder.mkdir()
    draft = Draft(
        source=source,
        networks=networks,
        recipe=recipe,
        rounded=_zeros(networks, recipe),
        errors={},
        cache_peaks={
            name: 1.0
            for attention in attentions(networks["decoder"])
            for name in (attention.keys, attention.values)
        },
    )
    engine = open_engine(draft.write(folder), folder, threads=threads)
    positions = source.manifest.dimensions.max_positions
    tokens = TOKENS if positions is None else min(TOKENS, positions - STEPS)
    return lambda: _seconds(engine.decoder, tokens, source.manifest.has_encoder)


def _zeros(networks: Mapping[str, Network], recipe: Recipe) -> dict[str, Rounded]:
    """Return weights of zeros in the storages that a recipe chooses."""
    return {
        name: Rounded(storage, _zero_codes(storage, inputs, outputs))
        for name, (storage, inputs, outputs) in stored_weights(recipe, networks).items()
        if not storage.keeps_float32
    }


def _zero_codes(storage: Storage, inputs: int, outputs: int) -> Codes | None:
    if not storage.has_codes:
        return None
    size = storage.block_size or inputs
    scales = np.ones((-(-inputs // size), outputs), np.float32)
    return Codes(np.zeros((inputs, outputs), np.int8), scales, size)


def _seconds(new_decoder: NewDecoder, tokens: int, has_encoder: bool) -> float:
    """Return the time of a text: reading ``tokens`` tokens, and TOKENS decode steps."""
    start = time.perf_counter()
    decoder = new_decoder([[1] * tokens], tokens + STEPS + 1)
    decoder.prefill([[1] * (1 if has_encoder else tokens)])
    first = time.perf_counter() - start
    steps = []
    for _ in range(STEPS):
        start = time.perf_counter()
        decoder.decode([1])
        steps.append(time.perf_counter() - start)
    decoder.close()
    return first + TOKENS * median(steps)
