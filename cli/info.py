"""The command ``edgeseq info``: shows a bundle's manifest and checks its files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.bundle.demo_bundles import DEMOS, demo_bundle

if TYPE_CHECKING:
    from ..runtime.bundle.manifest import Quality, Quantization
    from ..runtime.bundle.reading import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Show what a bundle is, and check it."
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("bundle", nargs="?", type=Path, help="folder of the bundle")
    which.add_argument("--demo", choices=DEMOS, help="edgeseq's own model")
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
            print("verified       every file has its hash")
    return 0


def _print_info(bundle: Bundle) -> None:
    manifest, sizes = bundle.manifest, bundle.manifest.dimensions
    check = manifest.verification
    total = sum(entry.size_bytes for entry in manifest.files.values())
    revision = f" at {manifest.source.revision}" if manifest.source.revision else ""
    lines = {
        "bundle": bundle.folder,
        "architecture": f"{manifest.architecture}, {manifest.kind}",
        "source": f"{manifest.source.id}{revision}",
        "precision": _precision(manifest.quantization),
        "quality": _quality(manifest.quantization.quality),
        "kept": _kept(manifest.quantization),
        "cache": manifest.kv_cache.dtype,
        "size": f"{total / 1e6:.1f} MB",
        "layers": f"{sizes.layers}, {sizes.heads} heads of {sizes.head_size}",
        "vocabulary": sizes.vocabulary,
        "positions": sizes.max_positions or "any number",
        "generation": json.dumps(dict(manifest.generation)),
        "from PyTorch": (
            f"{check.max_logit_difference:.1e} in a logit at most"
            f"{' (in float32)' if manifest.quantization.quality else ''}"
            if check
            else "?"
        ),
        "made with": ", ".join(f"{n} {v}" for n, v in manifest.producers.items()),
    }
    for name, value in lines.items():
        if value is not None:
            print(f"{name:<14} {value}")


def _precision(quantization: Quantization) -> str:
    size = quantization.block_size
    return quantization.recipe + (f", blocks of {size}" if size is not None else "")


def _quality(quality: Quality | None) -> str | None:
    if quality is None:
        return None
    return (
        f"perplexity {quality.perplexity_rise:+.2%} of the source's (limit "
        f"{quality.perplexity_rise_limit:.2%}), KL divergence {quality.kl_divergence:.1e}, "
        f"{quality.top1_agreement:.1%} of the most probable tokens the same, over "
        f"{quality.tokens} tokens of {quality.text}, {quality.kv_cache} cache"
    )


def _kept(quantization: Quantization) -> str | None:
    kept = (f"{layer} as {storage}" for layer, storage in quantization.kept.items())
    return "; ".join(kept) or None
