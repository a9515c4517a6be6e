"""Prompts: token ids that are checked, and the tokens that the decoder reads first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from numbers import Integral
from typing import Any

from ..bundle.manifest import Manifest
from ..errors import OptionError, PromptError
from .options import GenerationOptions

Ids = list[int]


def id_lists(prompts: Any, name: str) -> list[list[Any]]:
    """Return lists of Python integers from any sequences of integers; ``name`` is for errors."""
    items = listed(prompts)
    if items is None:
        raise PromptError(f"{name} takes lists of token ids, not {prompts!r:.60}.")
    lists = []
    for number, item in enumerate(items):
        if (ids := listed(item)) is None:
            raise PromptError(
                f"{name} takes a list of lists of token ids, one a prompt; item {number} is "
                f"{item!r:.60}."
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


def check_prompt(name: str, prompt: Ids, options: GenerationOptions, manifest: Manifest) -> None:
    """Refuse a prompt that cannot run; put the start token into an empty one.

    ``name``: the prompt's name in errors.
    """
    sizes = manifest.dimensions
    if not prompt:
        if manifest.has_encoder:
            raise PromptError(f"{name} is empty: give the encoder a token to read.")
        if options.bos_token_id is None:
            raise PromptError(
                f"{name} is empty, and the model has no bos_token_id to start from: "
                "give it some text."
            )
        prompt.append(options.bos_token_id)
    check_ids(name, prompt, manifest)
    if sizes.max_positions is not None and len(prompt) > sizes.max_positions:
        raise PromptError(
            f"{name} has {len(prompt)} tokens; this model reads at most "
            f"{sizes.max_positions}: shorten it."
        )


def decoder_prompts(
    prompts: Sequence[Ids], prefixes: Any, options: GenerationOptions, manifest: Manifest
) -> Sequence[Ids]:
    """Return the tokens that the decoder reads first, a list of ids for each prompt.

    Without an encoder these are the prompt. With one they are the start token and the prompt's
    prefix: ``prefixes`` is None, one list of ids for all prompts, or a list of such lists. The
    start token is not added to a prefix that begins with it. Transformers decides this for the
    whole batch.
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
            "The model's generation defaults name no decoder_start_token_id: pass one."
        )
    lists = _one_each(prefixes, len(prompts))
    starts = [ids if ids[:1] == [start] else [start, *ids] for ids in lists]
    for number, ids in enumerate(starts):
        check_ids(f"The decoder's start for prompt {number}", ids, manifest)
    return starts


def _one_each(prefixes: Any, count: int) -> list[list[Any]]:
    if prefixes is None:
        return [[]] * count
    if (items := listed(prefixes)) is None:
        raise PromptError(f"decoder_input_ids takes token ids, not {prefixes!r:.60}.")
    if lists_by_prompt(items) is None:
        return id_lists([items], "decoder_input_ids") * count
    check_one_each(items, count, "prompts")
    return id_lists(items, "decoder_input_ids")


def lists_by_prompt(prefixes: Any) -> list[Any] | None:
    """Return ``decoder_input_ids`` if it has a list per prompt; None if it is one list for all."""
    items = listed(prefixes)
    if items is None or all(listed(item) is None for item in items):
        return None
    return items


def check_one_each(lists: Sequence[Any], count: int, name: str) -> None:
    """Raise ``PromptError`` unless ``decoder_input_ids`` has ``count`` lists."""
    if len(lists) != count:
        raise PromptError(
            f"decoder_input_ids has {len(lists)} lists for {count} {name}: give one list for all, "
            "or one for each."
        )


def check_ids(name: str, ids: Ids, manifest: Manifest) -> None:
    """Refuse ids outside the vocabulary; ``name``: the name of the list in errors."""
    vocabulary = manifest.dimensions.vocabulary
    for token in ids:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise PromptError(f"{name} holds {token!r}; {id_range(vocabulary)}.")


def id_range(vocabulary: int) -> str:
    """Return the valid token ids, as a part of a sentence."""
    return f"token ids are integers from 0 to {vocabulary - 1}"


def _plain_integer(token: Any) -> Any:
    """Return an integer of any type as a Python int; return any other value unchanged."""
    return int(token) if not isinstance(token, bool) and isinstance(token, Integral) else token
