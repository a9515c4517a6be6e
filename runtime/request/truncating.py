"""Truncation: cutting prompts that are longer than the model reads, if the caller asks for it.

The rule. A decoder-only model has positions for the prompt and the new tokens together, so that a
prompt is cut to what ``max_new_tokens`` (or the longest choice) leaves. The source of an
encoder-decoder model is cut to the model's positions, or to the tokenizer's limit if that is lower.
Special tokens that the tokenizer puts around a text stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..bundle.manifest import Manifest
from ..errors import OptionError
from ..text.byte_tokenizer import AnyTokenizer
from ..text.special_tokens import special_tokens_of
from .controls import Controls
from .options import GenerationOptions

STEPS = 4  # a sliding window moves by this part of its size


def truncate_prompts(
    prompts: Sequence[list[int]],
    options: GenerationOptions,
    controls: Controls,
    manifest: Manifest,
    tokenizer: AnyTokenizer,
) -> list[int]:
    """Cut ``prompts`` in place, as the option ``truncation`` says; return the tokens each lost.

    Raises ``OptionError`` if no token of a prompt can stay.
    """
    longest = None
    if side := truncation_side(options, manifest):
        longest = longest_prompt(options, controls, manifest, tokenizer)
    if longest is None or all(len(prompt) <= longest for prompt in prompts):
        return [0] * len(prompts)
    before, after = special_tokens_of(tokenizer)
    return [_cut(prompt, longest, side, before, after) for prompt in prompts]


def truncation_side(options: GenerationOptions, manifest: Manifest) -> str:
    """Return "left", "right" or "sliding", or "" if prompts must not be cut."""
    given = options.truncation or ""
    return manifest.tokenizer.truncation_side if given is True else given


def longest_prompt(
    options: GenerationOptions, controls: Controls, manifest: Manifest, tokenizer: AnyTokenizer
) -> int | None:
    """Return the limit of a prompt's tokens for ``truncation``; None if the model has no limit."""
    positions = manifest.dimensions.max_positions
    if manifest.has_encoder:
        limits = (positions, manifest.tokenizer.model_max_length)
        return min((limit for limit in limits if limit is not None), default=None)
    if positions is None:
        return None
    if controls.choices is not None:
        spelled = [tokenizer.encode_continuation(str(choice)) for choice in controls.choices]
        return positions + 1 - max(map(len, spelled))
    if options.max_new_tokens is None and options.max_length is not None:
        raise OptionError(
            "truncation has no effect with max_length, which counts the prompt too: use "
            "max_new_tokens."
        )
    return positions + 1 - options.new_tokens(0)  # the last new token is not read


def _cut(
    prompt: list[int], longest: int, side: str, before: Sequence[int], after: Sequence[int]
) -> int:
    """Cut a prompt to at most ``longest`` tokens; return how many it lost.

    ``before``, ``after``: special tokens, which stay if the prompt has them.
    """
    if len(prompt) <= longest:
        return 0
    head = len(before) if prompt[: len(before)] == list(before) else 0
    tail = len(after) if after and prompt[-len(after) :] == list(after) else 0
    size, room = len(prompt) - head - tail, longest - head - tail
    if room < 1:
        raise OptionError(
            "truncation leaves no room for the prompt, because the new tokens or the longest "
            "choice need all positions of the model: use a lower max_new_tokens, or shorter "
            "choices."
        )
    excess = size - room
    if side == "right":
        first = head + room
    else:
        first = head
        if side == "sliding":
            step = max(1, room // STEPS)
            excess = -(-excess // step) * step  # the same start for as many tokens as a step
    del prompt[first : first + excess]
    return excess
