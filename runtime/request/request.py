"""What a call asks for, checked before the work begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..bundle.manifest import Manifest
from ..errors import OptionError
from .controls import Controls, check_choosing, split_controls
from .options import GenerationOptions
from .prompts import check_prompt, decoder_prompts
from .resolving import resolve_options
from .value_checks import plain


class Request(NamedTuple):
    """The parts of a call."""

    prompts: Sequence[Sequence[int]]
    starts: Sequence[Sequence[int]]  # what the decoder reads first
    options: GenerationOptions
    arguments: Controls


def checked_request(
    manifest: Manifest, prompts: Sequence[list[int]], options: Mapping[str, Any]
) -> Request:
    """All that can be known of a call beforehand; a prompt that has to begin with a token gets it.

    Raises ``OptionError`` for an option and ``PromptError`` for ids that cannot be served.
    """
    arguments, rest = split_controls(options)
    resolved = resolve_options(manifest.generation, rest, manifest.kind)
    resolved = check_ids_of_options(resolved, manifest.dimensions.vocabulary)
    check_choosing(arguments, rest)
    _check_ends(rest, manifest.dimensions.vocabulary)
    for number, prompt in enumerate(prompts):
        what = "The prompt" if len(prompts) == 1 else f"Prompt {number}"
        check_prompt(what, prompt, resolved, manifest)
    starts = decoder_prompts(prompts, arguments.decoder_input_ids, resolved, manifest)
    return Request(prompts, starts, resolved, arguments)


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


def check_ids_of_options(options: GenerationOptions, vocabulary: int) -> GenerationOptions:
    """Refuse ids outside the vocabulary; an end of sequence that cannot come is left out."""
    words = {
        "bad_words_ids": options.bad_words_ids or (),
        "sequence_bias": [ids for ids, _ in options.biases],
        "suppress_tokens": [options.suppress_tokens or ()],
        "begin_suppress_tokens": [options.begin_suppress_tokens or ()],
        "forced_bos_token_id": [
            () if options.forced_bos_token_id is None else (options.forced_bos_token_id,)
        ],
        "forced_eos_token_id": [options.forced_eos_token_ids],
    }
    for name, lists in words.items():
        for token in (token for ids in lists for token in ids):
            if token >= vocabulary:
                raise OptionError(
                    f"{name} holds {token}; token ids are integers from 0 to {vocabulary - 1}."
                )
    ends = tuple(token for token in options.eos_token_ids if token < vocabulary)
    return options if ends == options.eos_token_ids else replace(options, eos_token_id=ends)
