"""The command ``edgeseq quantize``: stores a float32 bundle in fewer bits."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from ..quantize.recipes import AUTO, RECIPES
from .flags import integer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq quantize BUNDLE OUT [options]"
    parser.description = (
        "Quantize a float32 bundle, and measure what it loses (needs the extra 'quantize')."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the float32 bundle")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the bundle to write")
    default = next(iter(RECIPES))
    parser.add_argument(
        "--recipe",
        default=default,
        choices=[*RECIPES, AUTO],
        help=f"how to quantize; {AUTO}: the fastest on this machine that passes the quality gate "
        f"(default: {default})",
    )
    add_recipe_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    parser.set_defaults(run=_quantize)


def add_recipe_flags(group: Any) -> None:
    """Add the flags of a recipe to a parser or a group; ``recipe_settings`` reads them."""
    group.add_argument(
        "--block-size", type=integer, metavar="N", help="weights per scale, for recipes with blocks"
    )
    group.add_argument(
        "--kv-cache",
        choices=["float32", "int8"],
        help="default dtype of the KV cache (default: the recipe's)",
    )
    group.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="text, or source and target pairs, for calibration and evaluation",
    )
    group.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="LAYER",
        help="layer or table to store in more bits; '*' matches anything, as in '*.ff.wo', and the "
        "error for an unknown layer lists all; may be given several times",
    )
    group.add_argument(
        "--max-loss", type=_percent, metavar="PERCENT", help="largest allowed rise of perplexity"
    )
    group.add_argument(
        "--allow-loss", action="store_true", help="write the bundle even if perplexity rises more"
    )
    group.add_argument(
        "--threads",
        type=integer,
        metavar="N",
        help="number of threads (default: usable physical cores)",
    )


def recipe_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``quantize_bundle`` from the flags."""
    return {
        "block_size": arguments.block_size,
        "kv_cache": arguments.kv_cache,
        "text": arguments.text,
        "keep": arguments.keep,
        "perplexity_rise_limit": arguments.max_loss,
        "allow_loss": arguments.allow_loss,
        "threads": arguments.threads,
    }


def say(message: str) -> None:
    """Print a progress message to standard error."""
    print(message, file=sys.stderr, flush=True)


def _percent(text: str) -> float:
    """Convert a percentage to a share."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a percentage of at least 0")
    return value / 100


def _quantize(arguments: argparse.Namespace) -> int:
    from ..quantize import quantize_bundle

    quantize_bundle(
        arguments.bundle,
        arguments.out,
        recipe=arguments.recipe,
        **recipe_settings(arguments),
        overwrite=arguments.overwrite,
        progress=say,
    )
    return 0
