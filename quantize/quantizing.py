"""Quantize a float32 bundle to fewer bits."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
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
from .draft import round_weights, weight_names
from .gate import Gate, Recorded
from .graph.network import Network
from .recipes import Recipe, find_recipe
from .resources.disk import needed_bytes
from .resources.reporting import progress_in_lines
from .resources.scratch import Scratch
from .resources.workers import Workers
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
    threads: int | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Bundle:
    """Quantize a float32 bundle, and write the result as a new bundle.

    The weights are rounded with statistics of a calibration text (GPTQ, arXiv 2210.17323; layers
    with integer products also SmoothQuant, arXiv 2211.10438). The quality gate then compares the
    new bundle with the float32 bundle on the other half of the text. If the perplexity rises by
    more than the limit, the gate tries a float32 KV cache, then stores the most sensitive layers in
    higher precision. The measured loss of quality is part of the new bundle's manifest.

    Args:
        bundle: The folder of the float32 bundle, as ``export_checkpoint`` writes it.
        out: The folder of the new bundle. It may be the same as ``bundle`` with ``overwrite``.
        recipe: How the weights are stored: ``"int8"``, ``"int4"``, ``"int8-weights"`` or
            ``"fp16"``; see ``RECIPES``.
        block_size: How many weights share a scale: 32, 64, 128 or 256. By default, the
            recipe's block size. Only for recipes that store the layers in blocks.
        keep: Layers to store in higher precision from the start, as names or patterns such as
            ``"*.ff.wo"``.
        kv_cache: The default dtype of the KV cache, ``"float32"`` or ``"int8"``. By default, the
            recipe's dtype, or float32 if int8 exceeds the limit and float32 loses less.
        text: A file for calibration and for the quality gate, in the format that ``edgeseq eval``
            reads: text for a GPT-2, pairs of source and target for a T5. By default, a built-in
            text.
        perplexity_rise_limit: The highest allowed rise of perplexity, where 0.01 means one
            percent. By default, the recipe's limit.
        allow_loss: Whether to write the bundle even if the perplexity rises by more than the limit.
        overwrite: Whether to replace a bundle that already exists at ``out``.
        threads: The number of threads. By default, one per core that the process may use. The
            rounded weights do not depend on it.
        progress: A function that is called with one line of text per step, and in long steps with
            a line every ten seconds that says how much is left. By default, nothing is reported.

    Returns:
        The new bundle, with its folder and its manifest.

    Raises:
        QuantizationError: The perplexity rises by more than the limit, and ``allow_loss`` is not
            set.
        BundleError: ``bundle`` is missing, damaged or already quantized, ``out`` is taken, or its
            disk has too little free space.
        OptionError: An option is unknown or invalid, or has no effect with the recipe.
        PromptError: ``text`` cannot be read, or is too short.

    Examples:
        >>> from edgeseq.quantize import quantize_bundle
        >>> bundle = quantize_bundle("gpt2-fp32", "gpt2-int8", recipe="int8")
        >>> bundle.manifest.quantization.recipe
        'int8'
    """
    chosen = find_recipe(recipe, block_size)
    if kv_cache is not None:
        if kv_cache not in CACHES:
            raise OptionError(f"kv_cache is {kv_cache!r}; it must be 'float32' or 'int8'.")
        chosen = replace(chosen, kv_cache=kv_cache)
    limit = _checked_limit(perplexity_rise_limit, chosen)
    source = open_bundle(Path(bundle).expanduser())
    if source.folder.resolve() in Path(out).expanduser().resolve().parents:
        raise BundleError(
            f"{os.fspath(out)} is inside the source bundle {source.folder}: choose an output "
            "folder outside it."
        )
    if source.manifest.quantization.recipe != FLOAT32:
        raise BundleError(
            f"{source.folder} is already quantized ({source.manifest.quantization.recipe}): pass "
            "the float32 bundle."
        )
    networks = {role: Network(source, role) for role in source.manifest.roles}
    chosen = _keeping(chosen, keep, networks)
    with ExitStack() as stack:
        workers = stack.enter_context(Workers(threads))
        writer = stack.enter_context(BundleWriter(Path(out), overwrite=overwrite))
        spare = writer.check_space(needed_bytes(chosen, networks, source.manifest))
        scratch = stack.enter_context(Scratch(writer.folder.parent))
        texts = find_texts(source, None if text is None else Path(text), workers.threads, progress)
        count = len(weight_names(networks))
        progress(f"calibrating and rounding {count} layers")
        with progress_in_lines("rounding", count, "layers", progress) as rounded:
            candidate = round_weights(
                source, networks, chosen, texts.calibration, scratch, workers, rounded
            )
        reference = open_engine(
            source.manifest, source.folder, threads=workers.threads, mapped=True
        ).decoder
        recorded = Recorded(reference, scratch, spare)
        with Gate(recorded, texts.judged, limit, writer.folder, progress, workers.threads) as gate:
            progress(f"measuring the loss on {len(texts.judged)} windows")
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
            f"perplexity_rise_limit is {limit!r}; it must be a number of at least 0, where 0.01 "
            "means one percent."
        )
    return float(limit)


def _keeping(recipe: Recipe, keep: Sequence[str], networks: dict[str, Network]) -> Recipe:
    names, kept = weight_names(networks), set[str]()
    patterns: Sequence[Any] = [keep] if isinstance(keep, str) else keep
    for pattern in patterns:
        found = [n for n in names if isinstance(pattern, str) and fnmatchcase(n, pattern)]
        if not found:
            raise OptionError(
                f"There is no layer {pattern!r} to keep: use names or patterns of "
                f"{', '.join(names)}."
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
