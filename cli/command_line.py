"""The command line: the one file that joins the three stages, each imported when it is needed.

Exit status: 0; 1 with one sentence on standard error; 2 for wrong usage; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..runtime.errors import EdgeseqError, reason
from . import bench as bench_command
from . import evaluate as eval_command
from . import generate as generate_command
from . import info as info_command
from . import run as run_command

RECIPES = ("int8", "int4", "int8-weights", "fp16")  # known without importing what quantizes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a console that cannot show a character
    try:
        try:
            parsed = _parser().parse_args(arguments)
            status: int = parsed.run(parsed)
        finally:
            print(end="", flush=True)  # now, not at exit, so that a reader that left is noticed
    except BrokenPipeError:
        # What is still buffered must not raise once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except EdgeseqError as error:
        print("edgeseq:", *str(error).splitlines(), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"edgeseq: {_sentence(error)}", file=sys.stderr)
        return 1
    return status


def _sentence(error: OSError) -> str:
    if not isinstance(error.filename, str):
        return f"{error.strerror or reason(error)}."
    place = Path(error.filename)
    if isinstance(error, FileNotFoundError):
        what = f"file {place}" if place.parent.is_dir() else f"folder {place.parent}"
        return f"There is no {what}."
    if isinstance(error, IsADirectoryError):
        return f"{place} is a folder: give a file."
    return f"{place}: {error.strerror}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeseq",
        description="GPT-2 and T5 text generation on ONNX Runtime, without torch.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    generate_command.add_parser(commands)
    run_command.add_parsers(commands)
    _add_export(commands)
    _add_quantize(commands)
    info_command.add_parser(commands)
    bench_command.add_parser(commands)
    eval_command.add_parser(commands)
    return parser


class _Version(argparse.Action):
    """``--version``; reading it costs a search through what is installed."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"edgeseq {version('edgeseq')}")
        parser.exit()


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="turn a Hugging Face checkpoint into a bundle",
        description="Turn a Hugging Face checkpoint into a bundle (needs the extra 'export').",
    )
    parser.add_argument("checkpoint", help="folder, or id on the Hub")
    parser.add_argument("out", type=Path, help="folder of the bundle to write")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", *RECIPES],
        help="fp32 (the default), or a recipe of `edgeseq quantize`",
    )
    _add_quantizing(parser.add_argument_group("with a recipe"))
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    parser.set_defaults(run=_export, usage_error=parser.error)


def _add_quantize(commands: Any) -> None:
    parser = commands.add_parser(
        "quantize",
        help="store a bundle's model in fewer bits",
        description="Quantize a float32 bundle, and measure what it loses (needs the extra "
        "'quantize').",
    )
    parser.add_argument("bundle", type=Path, help="folder of the float32 bundle")
    parser.add_argument("out", type=Path, help="folder of the bundle to write")
    parser.add_argument("--recipe", default=RECIPES[0], choices=RECIPES, help="default: int8")
    _add_quantizing(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    parser.set_defaults(run=_quantize)


def _add_quantizing(group: Any) -> None:
    """Add the flags that say how a recipe is followed; ``_quantizing`` reads them."""
    group.add_argument("--block-size", type=int, help="weights that share a scale, with blocks")
    group.add_argument(
        "--kv-cache",
        choices=["float32", "int8"],
        help="what the cache holds when nothing else is asked for (default: the recipe's)",
    )
    group.add_argument(
        "--text", type=Path, help="to calibrate and judge on: a text, or source and target pairs"
    )
    group.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="LAYER",
        help="store it in more bits; * stands for anything, as in '*.ff.wo', and the error for a "
        "layer that is not there lists them; may be given several times",
    )
    group.add_argument(
        "--max-loss", type=_percent, metavar="PERCENT", help="how much perplexity may rise"
    )
    group.add_argument("--allow-loss", action="store_true", help="write it even if it rises more")


def _percent(text: str) -> float:
    """The share that a number of percent is."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of percent from 0")
    return value / 100


def _quantizing(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``quantize_bundle`` takes of them."""
    return {
        "block_size": arguments.block_size,
        "kv_cache": arguments.kv_cache,
        "text": arguments.text,
        "keep": arguments.keep,
        "perplexity_rise_limit": arguments.max_loss,
        "allow_loss": arguments.allow_loss,
    }


def _export(arguments: argparse.Namespace) -> int:
    for name, value in _quantizing(arguments).items() if arguments.precision == "fp32" else ():
        if value is not None and value is not False and value != []:
            flag = "max_loss" if name == "perplexity_rise_limit" else name
            arguments.usage_error(f"--{flag.replace('_', '-')} is for a recipe (--precision)")
    from ..export import export_checkpoint

    def export(out: Path, overwrite: bool, progress: Callable[[str], None]) -> None:
        export_checkpoint(
            arguments.checkpoint,
            out,
            revision=arguments.revision,
            overwrite=overwrite,
            progress=progress,
        )

    if arguments.precision == "fp32":
        export(arguments.out, overwrite=arguments.overwrite, progress=_say)
        return 0
    from ..quantize import quantize_bundle
    from ..runtime.bundle.writing import BundleWriter

    BundleWriter(arguments.out, overwrite=arguments.overwrite)  # is it free? before all the work
    with TemporaryDirectory(prefix="edgeseq-") as folder:
        bundle = Path(folder) / "fp32"
        export(bundle, overwrite=False, progress=_say_but_where)
        quantize_bundle(
            bundle,
            arguments.out,
            recipe=arguments.precision,
            **_quantizing(arguments),
            overwrite=arguments.overwrite,
            progress=_say,
        )
    return 0


def _quantize(arguments: argparse.Namespace) -> int:
    from ..quantize import quantize_bundle

    quantize_bundle(
        arguments.bundle,
        arguments.out,
        recipe=arguments.recipe,
        **_quantizing(arguments),
        overwrite=arguments.overwrite,
        progress=_say,
    )
    return 0


def _say_but_where(message: str) -> None:
    """``_say``, but for where a bundle was written that goes when the work is done."""
    if not message.startswith("wrote "):
        _say(message)


def _say(message: str) -> None:
    """A line on what long work does just now."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
