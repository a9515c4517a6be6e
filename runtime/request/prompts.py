"""Checks of prompts, and the tokens that the decoder reads first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from numbers import Integral
from typing import Any

from ..bundle.manifest import Manifest
from ..errors import OptionError, PromptError
from ..text.byte_tokenizer import AnyTokenizer
from .options import GenerationOptions

Ids = list[int]
MOST_SPECIAL_TOKENS = 8  # that a tokenizer adds to a text


def id_lists(prompts: Any, name: str) -> list[list[Any]]:
    """Return lists of Python integers from any sequences of integers.

    ``name``: the name of the argument in errors.
    """
    items = listed(prompts)
    if items is None:
        raise PromptError(f"{name} takes lists of token ids, not {prompts!r:.60}.")
    lists = []
    for number, item in enumerate(items):
        if (ids := listed(item)) is None:
            raise PromptError(
                f"{name} takes a list of token ids for each prompt; item {number} is {item!r:.60}."
            )
        lists.append([_plain_integer(token) for token in ids])
    return lists


def listed(value: Any) -> list[Any] | None:
    """Return the items of a sequence; None for a string and for a value without items."""
    if isinstance(value, str | bytes | Mapping | Set):
        return None
    try:
        return list(value)
    except TypeError:
        return None


def encode_prompt(tokenizer: AnyTokenizer, text: str, max_length: int | None = None) -> Ids:
    """Return the token ids of a prompt.

    Raises ``PromptError`` for a text of which the tokenizer encodes nothing, such as English with a
    vocabulary of amino acids.
    """
    ids = tokenizer.encode(text, max_length=max_length)
    is_short = len(ids) <= MOST_SPECIAL_TOKENS  # else there is a token of the text
    if is_short and text.strip() and not tokenizer.encode(text, add_special_tokens=False):
        raise PromptError(
            f"The model's tokenizer has no tokens for the text {text!r:.60}: write it in the "
            "characters of the vocabulary."
        )
    return ids


def check_prompt(name: str, prompt: Ids, options: GenerationOptions, manifest: Manifest) -> None:
    """Raise ``PromptError`` for a prompt that is not valid; put the start token into an empty one.

    ``name``: the prompt's name in errors.
    """
    sizes = manifest.dimensions
    if not prompt:
        if manifest.has_encoder:
            raise PromptError(f"{name} is empty: give it at least one token.")
        if options.bos_token_id is None:
            raise PromptError(
                f"{name} is empty, and the model has no bos_token_id to start with: "
                "give it some text, or pass bos_token_id."
            )
        prompt.append(options.bos_token_id)
    check_ids(name, prompt, sizes.prompt_vocabulary)
    if sizes.max_positions is not None and len(prompt) > sizes.max_positions:
        raise PromptError(
            f"{name} has {len(prompt)} tokens, but this model reads at most "
            f"{sizes.max_positions}: shorten it, or pass truncation."
        )


def decoder_prompts(
    prompts: Sequence[Ids], prefixes: Any, options: GenerationOptions, manifest: Manifest
) -> Sequence[Ids]:
    """Return the tokens that the decoder reads first, a list of ids for each prompt.

    In a decoder-only model these are the prompt. In an encoder-decoder model they are the start
    token and the prompt's prefix. ``prefixes`` is None, one list of ids for all prompts, or a list
    for each. The start token is not added to a prefix that begins with it. Transformers decides
    this for the whole batch instead of for each prompt.
    """
    if not manifest.has_encoder:
        if prefixes is not None:
            raise OptionError(
                "decoder_input_ids has no effect with a decoder-only model: put the ids into the "
                "prompt."
            )
        return prompts
    start = options.decoder_start
    if start is None:
        raise OptionError(
            "The model's generation defaults have no decoder_start_token_id: pass one."
        )
    lists = _one_each(prefixes, len(prompts))
    starts = [ids if ids[:1] == [start] else [start, *ids] for ids in lists]
    for number, ids in enumerate(starts):
        check_ids(f"The decoder's start for prompt {number}", ids, manifest.dimensions.vocabulary)
    return starts


def _one_each(prefixes: Any, count: int) -> list[list[Any]]:
    if prefixes is None:
        return [[]] * count
    if (items := listed(prefixes)) is None:
        raise PromptError(
            f"decoder_input_ids is {prefixes!r:.60}; it must be a list of token ids, or a list of "
            "them for each prompt."
        )
    if lists_by_prompt(items) is None:
        return id_lists([items], "decoder_input_ids") * count
    check_one_each(items, count, "prompts")
    return id_lists(items, "decoder_input_ids")


def lists_by_prompt(prefixes: Any) -> list[Any] | None:
    """Return ``decoder_input_ids`` if it has a list for each prompt; else None."""
    items = listed(prefixes)
    if items is None or all(listed(item) is None for item in items):
        return None
    return items


def check_one_each(lists: Sequence[Any], count: int, name: str) -> None:
    """Raise ``PromptError`` unless ``decoder_input_ids`` has ``count`` lists."""
    if len(lists) != count:
        raise PromptError(
            f"decoder_input_ids has {len(lists)} lists for {count} {name}: pass one list for all "
            f"{name}, or as many lists as {name}."
        )


def check_ids(name: str, ids: Ids, vocabulary: int) -> None:
    """Raise ``PromptError`` for ids outside the vocabulary; ``name``: the list's name in errors."""
    for token in ids:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise PromptError(f"{name} holds {token!r:.60}; {id_range(vocabulary)}.")


def id_range(vocabulary: int) -> str:
    """Return the valid token ids, as a part of a sentence."""
    return f"token ids are integers from 0 to {vocabulary - 1}"


def _plain_integer(token: Any) -> Any:
    """Return an integer of any type as a Python int; return any other value unchanged."""
    return int(token) if not isinstance(token, bool) and isinstance(token, Integral) else token
