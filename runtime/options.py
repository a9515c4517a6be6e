"""How a generation is asked for.

Names and defaults are those of Transformers' ``GenerationConfig`` (4.57). The bundle's own
defaults go over them, the caller's options over both.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from edgeseq.runtime.errors import OptionError
from edgeseq.runtime.manifest import Kind

DEFAULT_NEW_TOKENS = 20  # Transformers' default `max_length`, which counts new tokens alone
FACTORS = (1e-6, 1e6)  # what logits are multiplied or divided by: float32 holds the result
ARGUMENTS = ("decoder_input_ids",)  # what a call takes beside the options
ONLY_FOR: dict[str, Kind] = {
    "bos_token_id": "decoder-only",
    "decoder_start_token_id": "encoder-decoder",
}
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Checked on construction: a value that makes no sense raises ``OptionError``."""

    max_new_tokens: int | None = None  # new tokens per prompt at most
    max_length: int | None = None  # what the decoder starts from and new tokens together at most
    do_sample: bool = False  # draw tokens; else take the most probable one
    temperature: float = 1.0  # logits are divided by it before drawing
    top_k: int = 50  # draw from the k most probable tokens; 0: from all
    top_p: float = 1.0  # draw from the fewest tokens of this probability; 1: from all
    seed: int | None = None  # of the draws; None: another each time (not of Transformers)
    repetition_penalty: float = 1.0  # logits of tokens seen before are lowered by this factor
    no_repeat_ngram_size: int = 0  # n-grams of this size come once; 0: no limit
    eos_token_id: int | tuple[int, ...] | None = None  # ends a text; None: nothing does
    bos_token_id: int | None = None  # what an empty prompt starts from
    decoder_start_token_id: int | None = None  # what a decoder starts from, after an encoder

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_length"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), at_least=1)
        if type(self.do_sample) is not bool:
            raise OptionError(f"do_sample is {self.do_sample!r}; it must be True or False.")
        if self.do_sample:
            _check_number("temperature", self.temperature, *FACTORS)
            _check_integer("top_k", self.top_k, at_least=0)
            _check_number("top_p", self.top_p, 0.0, 1.0)
            if self.seed is not None:
                _check_integer("seed", self.seed, at_least=0)
        _check_number("repetition_penalty", self.repetition_penalty, *FACTORS)
        _check_integer("no_repeat_ngram_size", self.no_repeat_ngram_size, at_least=0)
        for token in self.eos_token_ids:
            _check_integer("eos_token_id", token, at_least=0)
        for name in ("bos_token_id", "decoder_start_token_id"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), at_least=0)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a text, none of them if nothing does."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def decoder_start(self) -> int | None:
        """What a decoder starts from after an encoder; None if nothing says it."""
        start = self.decoder_start_token_id
        return self.bos_token_id if start is None else start

    def new_tokens(self, prompt_length: int) -> int:
        """How many tokens may follow a prompt; ``OptionError`` where there is no room for one."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            return DEFAULT_NEW_TOKENS
        if self.max_length <= prompt_length:
            raise OptionError(
                f"max_length is {self.max_length}, which leaves nothing after the {prompt_length} "
                "that the decoder starts from: raise it, or use max_new_tokens."
            )
        return self.max_length - prompt_length


def resolve_options(
    bundle_defaults: Mapping[str, Any], caller: Mapping[str, Any], kind: Kind
) -> GenerationOptions:
    """The caller's options over the bundle's over Transformers' defaults.

    An option that is unknown or has no effect raises ``OptionError`` if the caller passed it, and
    changes nothing if it came with the bundle.
    """
    known = [option.name for option in fields(GenerationOptions)]
    for name in caller:
        if name not in known:
            names = [*known, *ARGUMENTS]
            close = difflib.get_close_matches(name, names, 1, 0.75)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}."
            raise OptionError(f"There is no option {name!r}: {hint}")
    defaults = {name: value for name, value in bundle_defaults.items() if name in known}
    if any(caller.get(name) is not None for name in ("max_length", "max_new_tokens")):
        defaults.pop("max_length", None)
        defaults.pop("max_new_tokens", None)
    merged = {name: _plain(value) for name, value in {**defaults, **caller}.items()}
    options = GenerationOptions(**merged)
    _check_effects(options, {name for name, value in caller.items() if value is not None}, kind)
    return options


def _check_effects(options: GenerationOptions, caller: set[str], kind: Kind) -> None:
    for name, only in ONLY_FOR.items():
        falls_back = name == "bos_token_id" and options.decoder_start_token_id is None
        if name in caller and kind != only and not falls_back:
            raise OptionError(f"{name} has no effect with this model, which is {kind}.")
    if "max_length" in caller and "max_new_tokens" in caller:
        raise OptionError("max_length has no effect beside max_new_tokens: pass one of them.")
    for name in SAMPLING_ONLY:
        if name in caller and not options.do_sample:
            raise OptionError(f"{name} has no effect without sampling (do_sample).")


def _plain(value: Any) -> Any:
    """Python's own value for one of numpy's, and a tuple for a list."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _check_integer(name: str, value: Any, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise OptionError(f"{name} is {value!r}; it must be an integer of at least {at_least}.")


def _check_number(name: str, value: Any, at_least: float, at_most: float) -> None:
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not at_least <= value <= at_most:
        raise OptionError(
            f"{name} is {value!r}; it must be a number from {at_least:g} to {at_most:g}."
        )
