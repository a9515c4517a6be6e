"""What a call asks for, checked before the work begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edgeseq.runtime.arguments import Arguments, split_arguments
from edgeseq.runtime.choices import check_choosing
from edgeseq.runtime.errors import OptionError
from edgeseq.runtime.generating import check_ids_of_options
from edgeseq.runtime.manifest import Manifest
from edgeseq.runtime.option_values import plain
from edgeseq.runtime.options import GenerationOptions
from edgeseq.runtime.prompts import check_prompt, decoder_prompts
from edgeseq.runtime.resolving import resolve_options


class Call(NamedTuple):
    """The parts of a call."""

    prompts: Sequence[Sequence[int]]
    starts: Sequence[Sequence[int]]  # what the decoder reads first
    options: GenerationOptions
    arguments: Arguments


def checked_call(
    manifest: Manifest, prompts: Sequence[list[int]], options: Mapping[str, Any]
) -> Call:
    """All that can be known of a call beforehand; a prompt that has to begin with a token gets it.

    Raises ``OptionError`` for an option and ``PromptError`` for ids that cannot be served.
    """
    arguments, rest = split_arguments(options)
    resolved = resolve_options(manifest.generation, rest, manifest.kind)
    resolved = check_ids_of_options(resolved, manifest.dimensions.vocabulary)
    check_choosing(arguments, rest)
    _check_ends(rest, manifest.dimensions.vocabulary)
    for number, prompt in enumerate(prompts):
        what = "The prompt" if len(prompts) == 1 else f"Prompt {number}"
        check_prompt(what, prompt, resolved, manifest)
    starts = decoder_prompts(prompts, arguments.decoder_input_ids, resolved, manifest)
    return Call(prompts, starts, resolved, arguments)


def _check_ends(options: Mapping[str, Any], vocabulary: int) -> None:
    """Refuse ids of the caller's that cannot come; a bundle's are left unused."""
    for name in ("eos_token_id", "pad_token_id"):
        given = plain(options.get(name))
        for token in given if isinstance(given, tuple) else (given,):
            if token is not None:
                check_id(name, token, vocabulary)


def check_id(name: str, token: int, vocabulary: int) -> None:
    """Raise ``OptionError`` for a token of the option ``name`` beyond the vocabulary."""
    if token >= vocabulary:
        raise OptionError(f"{name} is {token}; token ids are integers from 0 to {vocabulary - 1}.")
