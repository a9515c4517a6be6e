"""Flags that several commands share: model, device, generation options; and the prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..runtime.bundle.demo_bundles import DEMOS
from ..runtime.errors import OptionError, PromptError
from ..runtime.ort.devices import AUTO
from ..runtime.request.options import OPTION_TRAITS
from ..runtime.text.input_lines import without_mark

if TYPE_CHECKING:
    from ..batch.workers import Ready
    from ..runtime.model import Model

NEW_TOKENS = 128  # default limit of new tokens for `edgeseq generate`, unless the bundle has one
FLAGS = {name: traits.flag for name, traits in OPTION_TRAITS.items() if traits.flag is not None}


KERNELS = ("auto", "native", "stock")
KERNELS_HELP = (
    "what multiplies with quantized weights on the CPU: edgeseq's native kernels, ONNX Runtime's "
    "stock operators, or auto (default): native where they are available"
)


def flags_of(group: str) -> list[str]:
    """Return the options with flags in a group: "length", "strategy" or "logits"."""
    return [name for name, flag in FLAGS.items() if flag.group == group]


def integer(text: str) -> int:
    """Return the integer in ``text``; for ``type`` of an argument."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not an integer") from error


def number(text: str) -> float:
    """Return the number in ``text``; for ``type`` of an argument."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number") from error


TYPES: dict[Any, Callable[[str], Any]] = {int: integer, float: number, str: str}
METAVARS: dict[Any, str | None] = {int: "N", float: "X", str: None}


def add_options(parser: Any, names: Iterable[str], **helps: str) -> None:
    """Add the flag of each option to a parser or a group.

    ``helps``: by option, a text that replaces the flag's usual help.
    """
    for name in names:
        flag = FLAGS[name]
        text = helps.get(name, flag.help)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=TYPES[flag.type],
            metavar=METAVARS[flag.type],
            choices=flag.choices,
            help=text,
        )


def add_sampling(parser: Any) -> None:
    """Add the flag that turns sampling on or off."""
    parser.add_argument(
        "--do-sample",
        action=argparse.BooleanOptionalAction,
        help="sample tokens, or take the most probable one",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the model, and the flags of ``add_machine``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--bundle", "-b", type=Path, help="folder of the bundle")
    which.add_argument("--demo", choices=DEMOS, help=f"edgeseq's own model (default: {DEMOS[0]})")
    add_machine(parser)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the flags for threads, device, KV cache and kernels; ``machine_of`` reads them."""
    parser.add_argument(
        "--threads",
        type=integer,
        metavar="N",
        help="number of threads (default: usable physical cores)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu (default), cuda, cuda:1, auto, or an execution provider's name",
    )
    add_provider(parser)
    parser.add_argument(
        "--kv-cache",
        choices=["float32", "int8", "float16"],
        help="dtype of the KV cache (default: the bundle's)",
    )
    parser.add_argument("--kernels", choices=KERNELS, default="auto", help=KERNELS_HELP)


def add_provider(parser: argparse.ArgumentParser) -> None:
    """Add the flags of an execution provider; ``provider_of`` reads them."""
    parser.add_argument(
        "--provider-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the device's execution provider; may be given several times",
    )
    parser.add_argument(
        "--provider-library",
        metavar="FILE",
        help="plug-in library that contains the execution provider",
    )


def machine_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``load`` from the flags; ``OptionError`` for bad ones."""
    return {
        "threads": arguments.threads,
        "device": arguments.device,
        **provider_of(arguments),
        "kv_cache": arguments.kv_cache,
        "kernels": arguments.kernels,
    }


def provider_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the provider's arguments of ``load``; ``OptionError`` for an option without value."""
    options: dict[str, str] = {}
    for item in arguments.provider_option:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise OptionError(f"--provider-option {item!r:.60}: give NAME=VALUE.")
        options[name] = value
    return {"provider_options": options or None, "provider_library": arguments.provider_library}


def say_device(model: Model | Ready, asked: str) -> None:
    """Print to standard error which device ``auto`` chose, and why."""
    if asked == AUTO:
        print(f"computing on {model.device}: {model.device_reason}", file=sys.stderr)


def say_truncated(count: int) -> None:
    """Print to standard error how many tokens of the prompt ``--truncation`` cut off, if any."""
    if count:
        print(f"The prompt was too long: {count} of its tokens were cut off.", file=sys.stderr)


def say_reading(stream: TextIO | None) -> None:
    """Tell a user at a terminal that the program waits for their input."""
    if stream is not None and stream.isatty():
        end = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"
        print(f"Reading standard input; end it with {end}.", file=sys.stderr)


def read_prompt(stream: TextIO | None) -> str:
    """Return all of standard input, without a byte order mark and the line break at its end."""
    if stream is None:
        raise PromptError("There is no standard input: give the prompt as an argument.")
    say_reading(stream)
    try:
        text = without_mark(stream.read()).removesuffix("\n").removesuffix("\r")
        text.encode()  # raises for surrogates, which stand for bytes that are not UTF-8
    except UnicodeError as error:
        raise PromptError("Standard input is not text in UTF-8.") from error
    return text
