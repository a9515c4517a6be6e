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

from ..runtime.bundle.manifest import CARD_NAME, CacheDtype, Manifest, Quality
from ..runtime.bundle.reading import Bundle, open_bundle
from ..runtime.bundle.writing import BundleWriter
from ..runtime.errors import BundleError, OptionError, QuantizationError
from ..runtime.evaluation.losses import Comparison
from ..runtime.ort.engine import open_engine
from .draft import Draft, round_weights, weight_names
from .gate import Gate, Recorded
from .graph.network import Network
from .probing import TOKENS, by_speed
from .recipes import AUTO, AUTOMATIC, Recipe, find_recipe
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
            ``"fp16"``; see ``RECIPES``. ``"auto"`` measures the speed of int4, int8 and
            int8-weights on this machine, and takes the fastest that passes the gate with the
            limit of int8.
        block_size: How many weights share a scale: 32, 64, 128 or 256. By default, the
            recipe's block size. Only for recipes that store the layers in blocks.
        keep: Layers to store in higher precision from the start, as names or patterns such as
            ``"*.ff.wo"``.
        kv_cache: The default dtype of the KV cache, ``"float32"`` or ``"int8"``. By default, the
            recipe's dtype, or float32 if int8 exceeds the limit and float32 loses less.
        text: A file for calibration and for the quality gate, in the format that ``edgeseq eval``
            reads: text for a GPT-2, pairs of source and target for a T5, or for a GPT-2 whose
            sources are prompts (.jsonl). By default, a built-in text.
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
    if recipe == AUTO and block_size is not None:
        raise OptionError(f"A block size has no effect with the recipe {AUTO!r}: leave it out.")
    names = AUTOMATIC if recipe == AUTO else (recipe,)
    candidates = [find_recipe(name, block_size) for name in names]
    if kv_cache is not None:
        if kv_cache not in CACHES:
            raise OptionError(f"kv_cache is {kv_cache!r}; it must be 'float32' or 'int8'.")
        candidates = [replace(candidate, kv_cache=kv_cache) for candidate in candidates]
    strictest = min(candidate.perplexity_rise_limit for candidate in candidates)
    limit = strictest if perplexity_rise_limit is None else _checked_limit(perplexity_rise_limit)
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
    candidates = [_keeping(candidate, keep, networks) for candidate in candidates]
    with ExitStack() as stack:
        workers = stack.enter_context(Workers(threads))
        writer = stack.enter_context(BundleWriter(Path(out), overwrite=overwrite))
        spare = min(
            writer.check_space(needed_bytes(candidate, networks, source.manifest))
            for candidate in candidates
        )
        scratch = stack.enter_context(Scratch(writer.folder.parent))
        if len(candidates) > 1:
            candidates = _fastest_first(
                source, networks, candidates, writer.folder, workers, progress
            )
        texts = find_texts(source, None if text is None else Path(text), workers.threads, progress)
        reference = open_engine(
            source.manifest, source.folder, threads=workers.threads, mapped=True
        ).decoder
        recorded = Recorded(reference, scratch, spare)
        with Gate(recorded, texts.judged, limit, writer.folder, progress, workers.threads) as gate:
            for chosen in candidates:
                rounded = _rounded(source, chosen, texts, scratch, workers, progress)
                progress(f"measuring the loss on {len(texts.judged)} windows")
                try:
                    admitted, measured = gate.admit(
                        rounded, other_cache=kv_cache is None, allow_loss=allow_loss
                    )
                except QuantizationError:
                    if chosen is candidates[-1]:
                        raise
                    progress(f"{chosen.name} loses too much")
                else:
                    break
        manifest = _with_quality(admitted.write(writer.folder), texts, measured, limit)
        _write_card(source, manifest, writer.folder)
        written = writer.commit(manifest)
    progress(f"wrote {written.folder}")
    return written


def _fastest_first(
    source: Bundle,
    networks: dict[str, Network],
    recipes: Sequence[Recipe],
    folder: Path,
    workers: Workers,
    progress: Callable[[str], None],
) -> list[Recipe]:
    """Return the recipes by their measured speed, and report it."""
    progress(f"measuring the speed of {', '.join(recipe.name for recipe in recipes)}")
    speeds = by_speed(source, networks, recipes, folder, workers.threads)
    measured = ", ".join(f"{s.recipe.name} {s.tokens_per_second:.1f}" for s in speeds)
    kind = "source" if source.manifest.has_encoder else "prompt"
    progress(f"tokens per second after {TOKENS} tokens of {kind}: {measured}")
    return [speed.recipe for speed in speeds]


def _rounded(
    source: Bundle,
    recipe: Recipe,
    texts: Texts,
    scratch: Scratch,
    workers: Workers,
    progress: Callable[[str], None],
) -> Draft:
    """Return a draft with rounded weights. Rounding changes the weights of its own networks."""
    networks = {role: Network(source, role) for role in source.manifest.roles}
    count = len(weight_names(networks))
    progress(f"calibrating and rounding {count} layers to {recipe.name}")
    with progress_in_lines("rounding", count, "layers", progress) as done:
        return round_weights(source, networks, recipe, texts.calibration, scratch, workers, done)


def _checked_limit(limit: Any) -> float:
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
    return replace(manifest, quantization=manifest.quantization._replace(quality=quality))


def _write_card(source: Bundle, manifest: Manifest, folder: Path) -> None:
    """Copy the model card of ``source``, if it has one, and add what quantizing lost."""
    quality = manifest.quantization.quality
    if CARD_NAME not in source.manifest.files or quality is None:
        return
    card = source.file(CARD_NAME).read_text(encoding="utf-8").rstrip()
    lines = [
        "## Quantized later",
        "",
        f"This bundle was made from the float32 bundle that is described above, with the recipe "
        f"`{manifest.quantization.recipe}`. Its perplexity on `{quality.text}` changed by "
        f"{quality.perplexity_rise:+.2%}, and the most probable token is the same at "
        f"{quality.top1_agreement:.1%} of the positions.",
    ]
    text = "\n".join([card, "", *lines, ""])
    (folder / CARD_NAME).write_text(text, encoding="utf-8", newline="\n")
