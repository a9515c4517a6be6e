"""What commands that generate share: flags for the model and its options, reading a prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..runtime.bundle.demo_bundles import DEMOS
from ..runtime.errors import OptionError, PromptError
from ..runtime.ort.devices import AUTO

if TYPE_CHECKING:
    from ..runtime.model import Model

NEW_TOKENS = 128
OptionTypes = dict[str, tuple[Callable[[str], Any], str]]
LENGTH: OptionTypes = {
    "max_new_tokens": (int, f"new tokens at most (default {NEW_TOKENS}, or the bundle's)"),
    "max_length": (int, "tokens at most, those that the decoder starts from included"),
    "min_new_tokens": (int, "new tokens before the model may end the text"),
    "max_time": (float, "seconds after which no further token is begun"),
}
STRATEGY: OptionTypes = {
    "num_beams": (int, "follow so many hypotheses: beam search"),
    "num_return_sequences": (int, "give so many texts, of beams or drawn"),
    "length_penalty": (float, "divide a hypothesis' score by its length to this power"),
    "num_beam_groups": (int, "divide the beams into groups that differ"),
    "diversity_penalty": (float, "take it off tokens that groups before have just chosen"),
    "prompt_lookup_num_tokens": (int, "guess so many tokens from the text: greedy, but faster"),
    "seed": (int, "seed of the draws"),
}
LOGITS: OptionTypes = {
    "temperature": (float, "divide logits by it before drawing"),
    "top_k": (int, "draw from the k most probable tokens; 0: from all"),
    "top_p": (float, "draw from the fewest tokens of this probability"),
    "min_p": (float, "draw from tokens at least this times as probable as the first"),
    "typical_p": (float, "draw from the most typical tokens of this probability"),
    "repetition_penalty": (float, "lower the logits of tokens seen before by this factor"),
    "no_repeat_ngram_size": (int, "let n-grams of this size come once; 0: no limit"),
}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which model generates, and on what."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--bundle", "-b", type=Path, help="folder of the bundle")
    which.add_argument("--demo", choices=DEMOS, help=f"edgeseq's own model (default: {DEMOS[0]})")
    add_machine(parser)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what computes; ``machine_of`` reads them."""
    parser.add_argument(
        "--threads", type=int, help="how many compute (default: usable physical cores)"
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu (default), cuda, cuda:1, auto, directml, ..."
    )
    add_provider(parser)
    parser.add_argument(
        "--kv-cache", choices=["float32", "int8", "float16"], help="default: the bundle's"
    )


def add_provider(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say more of a device; ``provider_of`` reads them."""
    parser.add_argument(
        "--provider-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the device's execution provider; may be given several times",
    )
    parser.add_argument("--provider-library", metavar="FILE", help="a plug-in that has the device")


def machine_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``load`` takes of them. Raises ``OptionError`` as ``provider_of`` does."""
    return {
        "threads": arguments.threads,
        "device": arguments.device,
        **provider_of(arguments),
        "kv_cache": arguments.kv_cache,
    }


def provider_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``load`` takes of them. Raises ``OptionError`` for a provider's option without value."""
    options: dict[str, str] = {}
    for item in arguments.provider_option:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise OptionError(f"--provider-option {item!r:.60}: give NAME=VALUE.")
        options[name] = value
    return {"provider_options": options or None, "provider_library": arguments.provider_library}


def say_device(model: Model, asked: str) -> None:
    """Say on standard error what ``auto`` took, and why."""
    if asked == AUTO:
        print(f"computing on {model.device}: {model.device_reason}", file=sys.stderr)


def add_options(group: Any, types: OptionTypes) -> None:
    """Add a flag for each option to a parser or a group of it."""
    for name, (kind, text) in types.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)


def add_sampling(group: Any) -> None:
    """Add the flag that says whether tokens are drawn."""
    group.add_argument(
        "--do-sample",
        action=argparse.BooleanOptionalAction,
        help="draw tokens, or take the most probable one",
    )


def read_prompt(stream: TextIO | None) -> str:
    """All of standard input, without the line break that ends it."""
    if stream is None:
        raise PromptError("There is no standard input: give the prompt as an argument.")
    try:
        text = stream.read().removesuffix("\n").removesuffix("\r")
        text.encode()  # bytes that are no text may have been let through as surrogates
    except UnicodeError as error:
        raise PromptError("Standard input is not text in UTF-8.") from error
    return text
