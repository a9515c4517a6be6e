"""The command ``edgeseq export``: turns a Hugging Face checkpoint into a bundle."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..quantize.recipes import AUTO, RECIPES
from ..runtime.errors import EdgeseqError
from .quantize import add_recipe_flags, recipe_settings, say

FLOAT32 = "fp32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq export CHECKPOINT OUT [options]"
    parser.description = "Turn a Hugging Face checkpoint into a bundle (needs the extra 'export')."
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or id on the Hub")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the bundle to write")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="folder of the tokenizer, if not CHECKPOINT"
    )
    parser.add_argument(
        "--precision",
        default=FLOAT32,
        choices=[FLOAT32, *RECIPES, AUTO],
        help="fp32 (the default), or a recipe of `edgeseq quantize`",
    )
    add_recipe_flags(parser.add_argument_group("with a recipe"))
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    settings = recipe_settings(arguments)
    for name, value in settings.items() if arguments.precision == FLOAT32 else ():
        if value is not None and value is not False and value != []:
            flag = "max_loss" if name == "perplexity_rise_limit" else name
            arguments.usage_error(
                f"--{flag.replace('_', '-')} has no effect without --precision RECIPE"
            )
    from ..export import export_checkpoint

    def export(out: Path, overwrite: bool, progress: Callable[[str], None]) -> None:
        export_checkpoint(
            arguments.checkpoint,
            out,
            revision=arguments.revision,
            tokenizer=arguments.tokenizer,
            overwrite=overwrite,
            progress=progress,
        )

    if arguments.precision == FLOAT32:
        export(arguments.out, overwrite=arguments.overwrite, progress=say)
        return 0
    from ..quantize import quantize_bundle
    from ..runtime.bundle.writing import BundleWriter, make_parent
    from ..runtime.concurrency.temporary import temporary_folder

    BundleWriter(arguments.out, overwrite=arguments.overwrite)  # raises early if OUT is taken
    place = make_parent(arguments.out)
    with temporary_folder(place) as folder:
        bundle = folder / FLOAT32
        try:
            export(bundle, overwrite=False, progress=_say_but_where)
        except EdgeseqError as error:  # the folder is gone when the message is read
            raise type(error)(str(error).replace(str(folder), str(place))) from error
        quantize_bundle(
            bundle,
            arguments.out,
            recipe=arguments.precision,
            **settings,
            overwrite=arguments.overwrite,
            progress=say,
        )
    return 0


def _say_but_where(message: str) -> None:
    """Print ``message``, unless it names the path of the temporary bundle."""
    if not message.startswith("wrote "):
        say(message)
