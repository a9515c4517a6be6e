"""The request of one call: prompts, start tokens, options and controls, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..bundle.manifest import Manifest
from ..errors import OptionError
from ..text.byte_tokenizer import AnyTokenizer
from .controls import Controls, check_choosing, split_controls
from .options import OPTION_TRAITS, GenerationOptions
from .prompts import check_prompt, decoder_prompts, id_range
from .resolving import resolve_options
from .truncating import truncate_prompts
from .value_checks import plain, several


class Request(NamedTuple):
    """A checked call: its prompts, start tokens, options and controls."""

    prompts: Sequence[Sequence[int]]
    starts: Sequence[Sequence[int]]  # tokens that the decoder reads first, by prompt
    options: GenerationOptions
    controls: Controls
    truncated: Sequence[int]  # tokens that each prompt lost by ``truncation``


def checked_request(
    manifest: Manifest,
    tokenizer: AnyTokenizer,
    prompts: Sequence[list[int]],
    options: Mapping[str, Any],
) -> Request:
    """Check a call and return its request.

    An empty prompt gets the start token, and a prompt that is too long is cut if ``truncation`` is
    set; both change the lists in ``prompts``. Raises ``OptionError`` for a bad option or control,
    and ``PromptError`` for a bad prompt.
    """
    controls, rest = split_controls(options)
    vocabulary = manifest.dimensions.vocabulary
    resolved = resolve_options(manifest.generation, rest, manifest.kind)
    resolved = _check_ids_of_options(resolved, vocabulary)
    check_choosing(controls, rest)
    for name in ("eos_token_id", "pad_token_id"):  # a bundle's invalid ids have no effect
        for token in several(plain(rest.get(name))):
            check_id(name, token, vocabulary)
    truncated = truncate_prompts(prompts, resolved, controls, manifest, tokenizer)
    for number, prompt in enumerate(prompts):
        name = "The prompt" if len(prompts) == 1 else f"Prompt {number}"
        check_prompt(name, prompt, resolved, manifest)
    starts = decoder_prompts(prompts, controls.decoder_input_ids, resolved, manifest)
    return Request(prompts, starts, resolved, controls, truncated)


def _check_ids_of_options(options: GenerationOptions, vocabulary: int) -> GenerationOptions:
    """Raise ``OptionError`` for ids outside the vocabulary, but drop such end-of-sequence ids."""
    for name, traits in OPTION_TRAITS.items():
        value = getattr(options, name)
        if traits.ids is not None and value is not None:
            for token in traits.ids(value):
                if token >= vocabulary:
                    raise OptionError(f"{name} holds {token}; {id_range(vocabulary)}.")
    ends = tuple(token for token in options.eos_token_ids if token < vocabulary)
    return options if ends == options.eos_token_ids else replace(options, eos_token_id=ends)


def check_id(name: str, token: int, vocabulary: int) -> None:
    """Raise ``OptionError`` if the token of option ``name`` is outside the vocabulary."""
    if token >= vocabulary:
        raise OptionError(f"{name} is {token}; {id_range(vocabulary)}.")
