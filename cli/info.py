"""The command ``edgeseq info``: shows a bundle's manifest and checks its files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.bundle.demo_bundles import DEMOS, demo_bundle
from ..runtime.native.library import calls_kernels, gains_from_kernels, processor_kernels
from ..runtime.text.languages import described, language_pairs

if TYPE_CHECKING:
    from ..runtime.bundle.manifest import Manifest, Quality, Quantization
    from ..runtime.bundle.reading import Bundle

LABEL_WIDTH = 14
COLUMNS = 98


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq info (BUNDLE | --demo NAME) [options]"
    parser.description = "Show the manifest of a bundle, and check its files."
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "bundle", nargs="?", type=Path, metavar="BUNDLE", help="folder of the bundle"
    )
    which.add_argument("--demo", choices=DEMOS, help="demo model instead of a bundle's folder")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.add_argument("--verify", action="store_true", help="check the hash of every file")
    parser.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> int:
    from ..runtime.bundle.reading import open_bundle

    folder = arguments.bundle if arguments.demo is None else demo_bundle(arguments.demo)
    bundle = open_bundle(folder, verify=arguments.verify)
    if arguments.json:
        print(bundle.manifest.to_json(), end="")
    else:
        _print_info(bundle)
        if arguments.verify:
            print(f"{'verified':<{LABEL_WIDTH}} all hashes match")
    return 0


def _print_info(bundle: Bundle) -> None:
    manifest, sizes = bundle.manifest, bundle.manifest.dimensions
    check = manifest.verification
    total = sum(entry.size_bytes for entry in manifest.files.values())
    revision = f" at {manifest.source.revision}" if manifest.source.revision else ""
    lines = {
        "bundle": bundle.folder,
        "architecture": f"{manifest.architecture}, {manifest.kind}",
        "checkpoint": f"{manifest.source.id}{revision}",
        "recipe": _recipe(manifest.quantization),
        "quality": _quality(manifest.quantization.quality),
        "kept layers": _kept_layers(manifest.quantization),
        "KV cache": manifest.kv_cache.dtype,
        "kernels": _kernels(bundle),
        "size": f"{total / 1e6:.1f} MB",
        "layers": f"{sizes.layers}, with {sizes.heads} heads of size {sizes.head_size}",
        "vocabulary": f"{sizes.vocabulary} tokens",
        "positions": sizes.max_positions or "no limit",
        "languages": _languages(manifest),
        "generation": json.dumps(dict(manifest.generation)),
        "export check": (
            f"max logit difference from PyTorch {check.max_logit_difference:.1e}"
            f"{' (before quantization)' if manifest.quantization.quality else ''}"
            if check
            else "not recorded"
        ),
        "made with": ", ".join(f"{n} {v}" for n, v in manifest.producers.items()),
    }
    for name, value in lines.items():
        if value is not None:
            print(f"{name:<{LABEL_WIDTH}} {value}")


def _recipe(quantization: Quantization) -> str:
    size = quantization.block_size
    return quantization.recipe + (f", block size {size}" if size is not None else "")


def _kernels(bundle: Bundle) -> str | None:
    """Return what multiplies with the bundle's weights here; None if it calls no kernels."""
    graphs = [bundle.file(graph).read_bytes() for graph in bundle.manifest.graphs.values()]
    if not any(map(calls_kernels, graphs)):
        return None
    found = processor_kernels()
    if found is None:
        return "stock (this installation has no native kernels for this processor)"
    return found if any(map(gains_from_kernels, graphs)) else "stock"


def _quality(quality: Quality | None) -> str | None:
    if quality is None:
        return None
    return (
        f"perplexity {quality.perplexity_rise:+.2%} (limit {quality.perplexity_rise_limit:+.2%}), "
        f"KL divergence {quality.kl_divergence:.1e} nats, top-1 agreement "
        f"{quality.top1_agreement:.1%}, compared with the float32 bundle on "
        f"{quality.tokens} tokens of {quality.text} ({quality.kv_cache} KV cache)"
    )


def _languages(manifest: Manifest) -> str | None:
    """Return the languages that a model translates between, with their names; None for none."""
    form, names = manifest.tokenizer, manifest.languages
    if (languages := form.languages) is not None:
        target = f", to {languages.target}" if languages.target else ""
        default = f" (default: from {languages.source}{target})"
        return _wrapped([described(code, names) for code in languages.ids]) + default
    if (fixed := form.fixed_languages) is not None:
        targets = list(fixed.target_tokens) or [code for code in [fixed.target] if code]
        items = [described(code, names) for code in targets]
        if fixed.source is not None:
            items = [f"from {described(fixed.source, names)}", *(f"to {item}" for item in items)]
        return _wrapped(items) or None
    pairs = language_pairs(manifest.task_specific_params)
    items = [f"{described(one, names)} to {described(other, names)}" for one, other in pairs]
    return _wrapped(items) or None


def _wrapped(items: Sequence[str]) -> str:
    """Return the items, separated by commas, in lines of at most 100 columns."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 2 <= COLUMNS - LABEL_WIDTH:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return (",\n" + " " * (LABEL_WIDTH + 1)).join(lines)


def _kept_layers(quantization: Quantization) -> str | None:
    kept = (f"{layer} as {storage}" for layer, storage in quantization.kept.items())
    return "; ".join(kept) or None
