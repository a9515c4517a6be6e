"""The options of a call: the caller's over the bundle's defaults over Transformers'.

An option that is unknown, or has no effect with the strategy and the model, raises ``OptionError``
if the caller passed it, and changes nothing if it came with the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from ..bundle.manifest import Kind
from ..errors import OptionError
from .controls import CONTROL_NAMES as ARGUMENTS
from .options import GenerationOptions
from .value_checks import plain

ONLY_FOR: dict[str, Kind] = {
    "bos_token_id": "decoder-only",
    "decoder_start_token_id": "encoder-decoder",
}


class Need(NamedTuple):
    """What some options need to have an effect."""

    names: tuple[str, ...]
    is_met: Callable[[GenerationOptions], bool]
    words: str


NEEDS = (
    Need(
        (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
            "seed",
        ),
        lambda options: options.do_sample,
        "without sampling (do_sample)",
    ),
    Need(
        ("length_penalty", "early_stopping"),
        lambda options: options.num_beams > 1,
        "without beam search (num_beams)",
    ),
    Need(
        ("num_beam_groups",),
        lambda options: options.num_beams > 1 or options.num_beam_groups == 1,
        "without beam search (num_beams)",
    ),
    Need(
        ("diversity_penalty", "pad_token_id"),
        lambda options: options.strategy == "group beam search",
        "without groups of beams (num_beam_groups)",
    ),
    Need(
        ("max_matching_ngram_size",),
        lambda options: options.prompt_lookup_num_tokens is not None,
        "without prompt lookup (prompt_lookup_num_tokens)",
    ),
    Need(
        ("min_length", "min_new_tokens", "exponential_decay_length_penalty"),
        lambda options: bool(options.eos_token_ids),
        "where nothing ends a text (eos_token_id)",
    ),
)
INSTEAD = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}


def resolve_options(
    bundle_defaults: Mapping[str, Any], caller: Mapping[str, Any], kind: Kind
) -> GenerationOptions:
    """The options of a call on a model of ``kind``; ``OptionError`` for what cannot be."""
    known = [option.name for option in fields(GenerationOptions)]
    for name in caller:
        if name not in known:
            if name in ARGUMENTS:
                raise OptionError(f"{name} is no default: pass it in the call.")
            names = [*known, *ARGUMENTS]
            import difflib

            close = difflib.get_close_matches(name, names, 1, 0.75)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}."
            raise OptionError(f"There is no option {name!r}: {hint}")
    defaults = {
        name: value
        for name, value in bundle_defaults.items()
        if name in known and value is not None
    }
    passed = {name for name, value in caller.items() if value is not None}
    for pair in INSTEAD.items():
        if not passed.isdisjoint(pair):
            for name in pair:
                defaults.pop(name, None)
    merged = {name: plain(value) for name, value in {**defaults, **caller}.items()}
    for name in _useless(merged, passed) - passed:
        merged.pop(name, None)
    options = GenerationOptions(**_without_none(merged))
    _check_effects(options, passed, kind)
    return options


def _useless(merged: Mapping[str, Any], caller: set[str]) -> set[str]:
    """Options that a bundle may have for another strategy than that of this call."""
    beams = merged.get("num_beams") or 1
    sampling = bool(merged.get("do_sample"))
    if beams == 1 and not sampling:
        return {"num_return_sequences"}
    useless = {"prompt_lookup_num_tokens"}
    if caller & {"num_beams", "do_sample"}:
        returned, groups = merged.get("num_return_sequences"), merged.get("num_beam_groups")
        if sampling or not _divides(groups, beams):
            useless.add("num_beam_groups")
        if _is_above(returned, beams) and beams != 1:
            useless.add("num_return_sequences")
    return useless


def _divides(value: Any, other: Any) -> bool:
    return type(value) is int and type(other) is int and value > 0 and other % value == 0


def _is_above(value: Any, other: Any) -> bool:
    return type(value) is int and type(other) is int and value > other


def _without_none(merged: Mapping[str, Any]) -> dict[str, Any]:
    """None turns an option of the bundle off: it stands for Transformers' default otherwise."""
    may_be_none = {option.name for option in fields(GenerationOptions) if option.default is None}
    return {
        name: value for name, value in merged.items() if value is not None or name in may_be_none
    }


def _check_effects(options: GenerationOptions, caller: set[str], kind: Kind) -> None:
    for name, only in ONLY_FOR.items():
        falls_back = name == "bos_token_id" and options.decoder_start_token_id is None
        if name in caller and kind != only and not falls_back:
            raise OptionError(f"{name} has no effect with this model, which is {kind}.")
    for name, other in INSTEAD.items():
        if name in caller and other in caller:
            raise OptionError(f"{name} has no effect beside {other}: pass one of them.")
    for need in NEEDS:
        for name in need.names:
            if name in caller and not need.is_met(options):
                raise OptionError(f"{name} has no effect {need.words}.")
