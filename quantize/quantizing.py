"""``quantize_bundle``: quantize a float32 bundle to fewer bits."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..runtime.bundle.manifest import CacheDtype, Manifest, Quality
from ..runtime.bundle.reading import Bundle, open_bundle
from ..runtime.bundle.writing import BundleWriter
from ..runtime.errors import BundleError, OptionError
from ..runtime.evaluation.losses import Comparison
from ..runtime.ort.engine import open_engine
from .calibration import cache_peaks
from .draft import Draft, round_weights, weight_names
from .equalizing import equalize
from .gate import Gate
from .graph.network import Network
from .recipes import Recipe, find_recipe
from .texts import Texts, find_texts

CACHES = ("float32", "int8")  # possible default dtypes; float16 is for CUDA
FLOAT32 = "fp32"  # recipe of an exported bundle


def quantize_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: str = "int8",
    block_size: int | None = None,
    keep: Sequence[str] = (),
    kv_cache: CacheDtype | None = None,
    text: str | os.PathLike[str] | None = None,
    perplexity_rise_limit: float | None = None,
    allow_loss: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Bundle:
    """Quantize the float32 bundle ``bundle`` by a recipe and write the bundle ``out``.

    - ``block_size``: how many weights share a scale, for a recipe with blocks.
    - ``keep``: layers to store in higher precision from the start, by name or pattern ("*.ff.wo").
    - ``kv_cache``: the default dtype of the KV cache; None: the recipe's dtype, if the bundle
      passes the quality gate with it.
    - ``text``: a file to calibrate and measure on, in the format of ``edgeseq eval``; None: the
      built-in text.
    - ``perplexity_rise_limit``: the highest rise of perplexity, 0.01 for one percent; None: the
      recipe's limit. Above it the most sensitive layers are kept in higher precision. If that is
      not enough, ``QuantizationError`` is raised, unless ``allow_loss``.
    - ``progress``: is called with a line for each step.

    Raises ``BundleError`` for a bundle that cannot be quantized or if ``out`` is taken,
    ``OptionError`` for a bad option, ``PromptError`` for a text that cannot be used.
    """
    chosen = find_recipe(recipe, block_size)
    if kv_cache is not None:
        if kv_cache not in CACHES:
            raise OptionError(f"kv_cache is {kv_cache!r}; it must be 'float32' or 'int8'.")
        chosen = replace(chosen, kv_cache=kv_cache)
    limit = _checked_limit(perplexity_rise_limit, chosen)
    source = open_bundle(Path(bundle))
    if source.manifest.quantization.recipe != FLOAT32:
        raise BundleError(
            f"{source.folder} is quantized already ({source.manifest.quantization.recipe}): "
            "quantize the float32 bundle."
        )
    networks = {role: Network(source, role) for role in source.manifest.roles}
    chosen = _keeping(chosen, keep, networks)
    with BundleWriter(Path(out), overwrite=overwrite) as writer:
        texts = find_texts(source, None if text is None else Path(text))
        equalized = equalize(networks["decoder"], cache_peaks(source, texts.calibration))
        rounded = round_weights(
            source, networks, chosen, texts.calibration, equalized.divided, progress
        )
        candidate = Draft(
            source=source,
            networks=networks,
            recipe=chosen,
            rounded=rounded,
            cache_peaks=equalized.peaks,
        )
        reference = open_engine(source.manifest, source.folder).decoder
        gate = Gate(reference, texts.judged, limit, writer.folder, progress)
        candidate, measured = gate.admit(
            candidate, other_cache=kv_cache is None, allow_loss=allow_loss
        )
        manifest = candidate.write(writer.folder)
        written = writer.commit(_with_quality(manifest, texts, measured, limit))
    progress(f"wrote {written.folder}")
    return written


def _checked_limit(limit: Any, recipe: Recipe) -> float:
    if limit is None:
        return recipe.perplexity_rise_limit
    known = isinstance(limit, int | float) and not isinstance(limit, bool)
    if not known or not 0 <= limit < math.inf:
        raise OptionError(
            f"perplexity_rise_limit is {limit!r}; it must be a number from 0, where 0.01 is one "
            "percent."
        )
    return float(limit)


def _keeping(recipe: Recipe, keep: Sequence[str], networks: dict[str, Network]) -> Recipe:
    names, kept = weight_names(networks), set[str]()
    patterns: Sequence[Any] = [keep] if isinstance(keep, str) else keep
    for pattern in patterns:
        found = [n for n in names if isinstance(pattern, str) and fnmatchcase(n, pattern)]
        if not found:
            raise OptionError(
                f"There is no layer {pattern!r} to keep: there are {', '.join(names)}."
            )
        kept.update(found)
    return replace(recipe, kept_layers=frozenset(kept))


def _with_quality(manifest: Manifest, texts: Texts, measured: Comparison, limit: float) -> Manifest:
    quality = Quality(
        text=texts.name,
        tokens=measured.candidate.tokens,
        context_tokens=texts.context,
        kv_cache=manifest.kv_cache.dtype,
        source_cross_entropy=measured.reference.cross_entropy,
        cross_entropy=measured.candidate.cross_entropy,
        perplexity_rise=measured.perplexity_rise,
        perplexity_rise_limit=limit,
        kl_divergence=measured.kl_divergence,
        top1_agreement=measured.top1_agreement,
    )
    return replace(manifest, quantization=replace(manifest.quantization, quality=quality))
