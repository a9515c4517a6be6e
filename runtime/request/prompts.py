"""What a generation starts from: checked prompts, and the tokens that the decoder reads first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from numbers import Integral
from typing import Any

from ..bundle.manifest import Manifest
from ..errors import OptionError, PromptError
from .options import GenerationOptions

Ids = list[int]


def id_lists(prompts: Any, name: str) -> list[list[Any]]:
    """Lists of Python's own integers, from any sequences of integers; ``name`` is for errors."""
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
    """The items of a sequence; None for a text and for what has no items."""
    if isinstance(value, str | bytes | Mapping | Set):
        return None
    try:
        return list(value)
    except TypeError:
        return None


def check_prompt(what: str, prompt: Ids, options: GenerationOptions, manifest: Manifest) -> None:
    """Start an empty prompt with the beginning-of-sequence token; refuse what cannot run.

    ``what`` it is called in errors.
    """
    sizes = manifest.dimensions
    if not prompt:
        if manifest.kind == "encoder-decoder":
            raise PromptError(f"{what} is empty: give the encoder a token to read.")
        if options.bos_token_id is None:
            raise PromptError(
                f"{what} is empty, and the model has no bos_token_id to start from: "
                "give it some text."
            )
        prompt.append(options.bos_token_id)
    check_ids(what, prompt, manifest)
    if sizes.max_positions is not None and len(prompt) > sizes.max_positions:
        raise PromptError(
            f"{what} has {len(prompt)} tokens; this model reads at most "
            f"{sizes.max_positions}: shorten it."
        )


def decoder_prompts(
    prompts: Sequence[Ids], prefixes: Any, options: GenerationOptions, manifest: Manifest
) -> Sequence[Ids]:
    """What the decoder reads first, a list of ids for each prompt.

    A decoder of its own reads the prompt. After an encoder it reads the start token and then the
    prompt's prefix: ``prefixes`` is None, a list of ids for all prompts, or a list of such lists.
    A start token that a prefix begins with is not given twice: as in Transformers' ``generate``,
    which however looks at all prefixes of a batch together.
    """
    if manifest.kind == "decoder-only":
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
    """``decoder_input_ids`` where they are a list a prompt; None: one for all, or none."""
    items = listed(prefixes)
    if items is None or all(listed(item) is None for item in items):
        return None
    return items


def check_one_each(lists: Sequence[Any], count: int, what: str) -> None:
    """Raise ``PromptError`` for other than ``count`` lists of ``decoder_input_ids``."""
    if len(lists) != count:
        raise PromptError(
            f"decoder_input_ids has {len(lists)} lists for {count} {what}: give one list for all, "
            "or one for each."
        )


def check_ids(what: str, ids: Ids, manifest: Manifest) -> None:
    """Refuse ids outside the vocabulary; ``what`` they are is for the error."""
    vocabulary = manifest.dimensions.vocabulary
    for token in ids:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise PromptError(
                f"{what} holds {token!r}; token ids are integers from 0 to {vocabulary - 1}."
            )


def _plain_integer(token: Any) -> Any:
    """Python's own integer for one of numpy's; anything else as it is, to be refused."""
    return int(token) if not isinstance(token, bool) and isinstance(token, Integral) else token
