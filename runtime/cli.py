"""The command line: the one file that joins the three stages, each imported when it is needed.

Exit status: 0; 1 with one sentence on standard error; 2 for wrong usage; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO

from edgeseq.runtime import bench_command, eval_command, info_command
from edgeseq.runtime.demo_bundles import DEMOS
from edgeseq.runtime.errors import EdgeseqError, PromptError

if TYPE_CHECKING:
    from edgeseq.runtime.model import Model

NEW_TOKENS = 128
RECIPES = ("int8", "int4", "int8-weights")  # known without importing what quantizes
OPTION_TYPES: dict[str, tuple[Callable[[str], Any], str]] = {
    "max_new_tokens": (int, f"new tokens at most (default {NEW_TOKENS}, or the bundle's)"),
    "max_length": (int, "tokens at most, those that the decoder starts from included"),
    "temperature": (float, "divide logits by it before drawing"),
    "top_k": (int, "draw from the k most probable tokens; 0: from all"),
    "top_p": (float, "draw from the fewest tokens of this probability"),
    "seed": (int, "seed of the draws"),
    "repetition_penalty": (float, "lower the logits of tokens seen before by this factor"),
    "no_repeat_ngram_size": (int, "let n-grams of this size come once; 0: no limit"),
}

GENERATE_EPILOG = """\
Prints the new text alone. Options left out are those of the bundle, or Transformers' defaults. A
prompt that starts with a dash goes after --.

The first T5 checkpoints (t5-small to t5-11b) tell tasks by how the prompt begins:
  translation         translate English to German: The house is wonderful.
  summarization       summarize: (the text)
  question answering  question: Who wrote it? context: (the text)
  classification      sst2 sentence: A charming and funny film.
The demo T5 knows two of its own:
  pronounce: algorithm
  spell: F AH0 N EH1 T IH0 K
"""


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
    except (EdgeseqError, OSError) as error:
        print("edgeseq:", *str(error).splitlines(), file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeseq",
        description="GPT-2 and T5 text generation on ONNX Runtime, without torch.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_generate(commands)
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


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="generate text from a prompt",
        description="Generate text with the model of a bundle, by default a demo model: a GPT-2 "
        "continues the prompt, a T5 answers it.",
        epilog=GENERATE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompt", nargs="?", help="the text; from standard input if absent or -")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--bundle", "-b", type=Path, help="folder of the bundle")
    which.add_argument("--demo", choices=DEMOS, help=f"edgeseq's own model (default: {DEMOS[0]})")
    parser.add_argument("--threads", type=int, help="how many threads compute (default: cores)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--verify", action="store_true", help="check the bundle's hashes first")
    parser.add_argument("--kv-cache", choices=["float32", "int8"], help="default: the bundle's")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--do-sample",
        action=argparse.BooleanOptionalAction,
        help="draw tokens, or take the most probable one",
    )
    for name, (kind, text) in OPTION_TYPES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    parser.set_defaults(run=_generate)


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
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    parser.set_defaults(run=_export)


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
    parser.add_argument("--block-size", type=int, help="weights that share a scale, with blocks")
    parser.add_argument(
        "--kv-cache",
        choices=["float32", "int8"],
        help="what the cache holds when nothing else is asked for (default: the recipe's)",
    )
    parser.add_argument(
        "--text", type=Path, help="to calibrate and judge on: a text, or source and target pairs"
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="LAYER", help="store it in more bits"
    )
    parser.add_argument(
        "--max-loss", type=float, metavar="PERCENT", help="how much perplexity may rise"
    )
    parser.add_argument("--allow-loss", action="store_true", help="write it even if it rises more")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle at OUT")
    parser.set_defaults(run=_quantize)


def _generate(arguments: argparse.Namespace) -> int:
    from edgeseq.runtime.loading import load

    names = [*OPTION_TYPES, "do_sample"]
    options = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    model = load(
        arguments.bundle,
        demo=arguments.demo,
        device=arguments.device,
        threads=arguments.threads,
        verify=arguments.verify,
        kv_cache=arguments.kv_cache,
    )
    if not {"max_length", "max_new_tokens"} & {*options, *model.bundle.manifest.generation}:
        options["max_new_tokens"] = NEW_TOKENS
    prompt = arguments.prompt
    if prompt is None or prompt == "-":
        prompt = _read_prompt(sys.stdin)
    if arguments.json:
        result = model.generate(prompt, **options)[0]
        print(json.dumps({"prompt": prompt, **asdict(result)}))
    else:
        _stream(model, prompt, options)
    return 0


def _stream(model: Model, prompt: str, options: dict[str, Any]) -> None:
    """Print the prompt's continuation as it comes."""
    for piece in model.stream(prompt, **options):
        print(piece, end="", flush=True)
    print()


def _read_prompt(stream: TextIO | None) -> str:
    """All of standard input, without the line break that ends it."""
    if stream is None:
        raise PromptError("There is no standard input: give the prompt as an argument.")
    try:
        text = stream.read().removesuffix("\n").removesuffix("\r")
        text.encode()  # bytes that are no text may have been let through as surrogates
    except UnicodeError as error:
        raise PromptError("Standard input is not text in UTF-8.") from error
    return text


def _export(arguments: argparse.Namespace) -> int:
    from edgeseq.export import export_checkpoint

    def export(out: Path, overwrite: bool) -> None:
        export_checkpoint(
            arguments.checkpoint,
            out,
            revision=arguments.revision,
            overwrite=overwrite,
            progress=_say,
        )

    if arguments.precision == "fp32":
        export(arguments.out, arguments.overwrite)
        return 0
    from edgeseq.quantize import quantize_bundle
    from edgeseq.runtime.bundle_writer import BundleWriter

    BundleWriter(arguments.out, overwrite=arguments.overwrite)  # is it free? before all the work
    with TemporaryDirectory(prefix="edgeseq-") as folder:
        bundle = Path(folder) / "fp32"
        export(bundle, overwrite=False)
        quantize_bundle(
            bundle,
            arguments.out,
            recipe=arguments.precision,
            overwrite=arguments.overwrite,
            progress=_say,
        )
    return 0


def _quantize(arguments: argparse.Namespace) -> int:
    from edgeseq.quantize import quantize_bundle

    limit = arguments.max_loss
    quantize_bundle(
        arguments.bundle,
        arguments.out,
        recipe=arguments.recipe,
        block_size=arguments.block_size,
        keep=arguments.keep,
        kv_cache=arguments.kv_cache,
        text=arguments.text,
        perplexity_rise_limit=None if limit is None else limit / 100,
        allow_loss=arguments.allow_loss,
        overwrite=arguments.overwrite,
        progress=_say,
    )
    return 0


def _say(message: str) -> None:
    """A line on what long work does just now."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
