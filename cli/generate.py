"""The command ``edgeseq generate``: generates text from a prompt and prints it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import OptionError, PromptError, reason
from ..runtime.text.input_lines import without_mark
from .flags import (
    FLAGS,
    NEW_TOKENS,
    add_model,
    add_options,
    add_sampling,
    flags_of,
    integer,
    machine_of,
    read_prompt,
    say_device,
    say_truncated,
)

if TYPE_CHECKING:
    from ..runtime.model import Model
    from ..runtime.results import GenerationResult

EARLY_STOPPING: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
GENERATE_EPILOG = """\
Prints only the new text. Options default to the bundle's settings, then to Transformers' defaults.
Put a prompt that starts with a dash after --.

To translate documents, sentence by sentence, use `edgeseq run translation`.

The first T5 checkpoints (t5-small to t5-11b) recognize tasks by the beginning of the prompt:
  translation         translate English to German: The house is wonderful.
  summarization       summarize: (the text)
  question answering  question: Who wrote it? context: (the text)
  classification      sst2 sentence: A charming and funny film.
The demo T5 knows two of its own:
  pronounce: algorithm
  spell: F AH0 N EH1 T IH0 K
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq generate [PROMPT] [options]"
    parser.description = (
        "Generate text with the model of a bundle, by default a demo model: a GPT-2 continues the "
        "prompt, a T5 answers it."
    )
    parser.epilog = GENERATE_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "prompt",
        nargs="?",
        type=without_mark,
        metavar="PROMPT",
        help="the text; from standard input if absent or -",
    )
    add_model(parser)
    parser.add_argument(
        "--allow-empty-prompt",
        action="store_true",
        help="start from nothing if the prompt is empty (a GPT-2 starts from its first token)",
    )
    parser.add_argument(
        "--source-language",
        metavar="NAME",
        help="language of the prompt, for multilingual models: a name such as French, or a code",
    )
    parser.add_argument(
        "--target-language", metavar="NAME", help="language to translate into, by name or code"
    )
    parser.add_argument("--verify", action="store_true", help="check the bundle's hashes first")
    parser.add_argument(
        "--prepack",
        action="store_true",
        help="keep packed weights in your cache folder: "
        "later loads map them and use less private memory",
    )
    parser.add_argument("--json", action="store_true", help="print results as lines of JSON")
    parser.add_argument(
        "--logprobs",
        type=integer,
        metavar="N",
        help="with --json: log-probability of each token "
        "and of the N most probable ones at its position",
    )
    length = parser.add_argument_group("length and stopping")
    add_options(
        length,
        flags_of("length"),
        max_new_tokens=f"new tokens at most (default {NEW_TOKENS}, or the bundle's)",
    )
    length.add_argument(
        "--stop-string",
        action="append",
        dest="stop_strings",
        metavar="TEXT",
        help="stop the text before this string; may be given several times",
    )
    strategy = parser.add_argument_group("decoding strategy")
    add_sampling(strategy)
    add_options(strategy, flags_of("strategy"))
    strategy.add_argument("--early-stopping", choices=EARLY_STOPPING, help="when beam search stops")
    add_options(parser.add_argument_group("logits processors"), flags_of("logits"))
    _add_constraints(parser.add_argument_group("constrained decoding"))
    parser.set_defaults(run=_generate)


def _add_constraints(group: Any) -> None:
    group.add_argument(
        "--choice",
        action="append",
        dest="choices",
        metavar="TEXT",
        help="one allowed output; give several: the probability of each is printed",
    )
    group.add_argument("--regex", help="regular expression that the whole output matches")
    group.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="JSON Schema that the output follows"
    )
    group.add_argument(
        "--grammar",
        type=Path,
        metavar="FILE",
        help="grammar of the output, in llguidance's Lark dialect",
    )


def _generate(arguments: argparse.Namespace) -> int:
    from ..runtime.loading import load

    options = _options(arguments)
    model = load(
        arguments.bundle,
        demo=arguments.demo,
        verify=arguments.verify,
        prepack=arguments.prepack,
        **machine_of(arguments),
    )
    say_device(model, arguments.device)
    languages = (arguments.source_language, arguments.target_language)
    if languages != (None, None):
        model = model.with_languages(*languages)
    limits = {"max_length", "max_new_tokens", "choices"}
    if not limits & {*options, *model.bundle.manifest.generation}:
        options["max_new_tokens"] = NEW_TOKENS
    prompt = arguments.prompt
    if prompt is None or prompt == "-":
        model.generate([], **options)  # a bad value is an error before the prompt is read
        prompt = read_prompt(sys.stdin)
    if not prompt and not arguments.allow_empty_prompt:
        raise PromptError(
            "The prompt is empty: give a text, or --allow-empty-prompt to start from nothing."
        )
    if arguments.json:
        for result in model.generate(prompt, **options):
            print(json.dumps({"prompt": prompt, **asdict(result)}))
        return 0
    if "choices" in options or options.get("num_return_sequences", 1) > 1:
        results = model.generate(prompt, **options)
        _print_several(results)
    else:
        results = [_stream(model, prompt, options)]
    say_truncated(results[0].truncated_tokens)
    return 0


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = [*FLAGS, "do_sample", "stop_strings", "choices", "regex"]
    options = {name: getattr(arguments, name) for name in names}
    if arguments.early_stopping is not None:
        options["early_stopping"] = EARLY_STOPPING[arguments.early_stopping]
    for name in ("json_schema", "grammar"):
        if (path := getattr(arguments, name)) is not None:
            options[name] = _read_text(path)
    if arguments.logprobs is not None and not arguments.json:
        raise OptionError("--logprobs has no effect without --json.")
    options["logprobs"] = arguments.logprobs
    return {name: value for name, value in options.items() if value is not None}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeError as error:
        raise OptionError(f"{path} is not text in UTF-8 ({reason(error)}).") from error


def _stream(model: Model, prompt: str, options: dict[str, Any]) -> GenerationResult:
    """Print each piece of the generated text as soon as it is certain; return the result."""
    stream = model.stream(prompt, **options)
    for piece in stream:
        print(piece, end="", flush=True)
    print()
    assert stream.result is not None
    return stream.result


def _print_several(results: Sequence[GenerationResult]) -> None:
    """Print choices with their probabilities, or several texts with their scores."""
    for number, result in enumerate(results, 1):
        if result.choices is not None:
            for choice in result.choices:
                print(f"{choice.probability:.4f}  {choice.text}")
        else:
            score = result.sequence_score
            print(f"--- {number}" if score is None else f"--- {number}, score {score:.4f}")
            print(result.text)
