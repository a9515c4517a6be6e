"""Merging of options: the caller's override the bundle's, which override Transformers' defaults.

An option that is unknown, or has no effect with the strategy and the model, raises ``OptionError``
if the caller passed it, and is ignored if the bundle has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bundle.manifest import Kind
from ..errors import OptionError, nearest
from .controls import CONTROL_NAMES
from .options import NONE_BY_DEFAULT, OPTION_TRAITS, GenerationOptions
from .value_checks import plain

ONLY_FOR: dict[str, Kind] = {
    "bos_token_id": "decoder-only",
    "decoder_start_token_id": "encoder-decoder",
}
INSTEAD = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}  # alternative options


def resolve_options(
    bundle_defaults: Mapping[str, Any], caller: Mapping[str, Any], kind: Kind
) -> GenerationOptions:
    """Return the options of a call of a model of ``kind``; raise ``OptionError`` for a bad one."""
    for name in caller:
        if name not in OPTION_TRAITS:
            raise OptionError(_unknown(name))
    defaults = {
        name: value
        for name, value in bundle_defaults.items()
        if name in OPTION_TRAITS and value is not None
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


def _unknown(name: str) -> str:
    if name in CONTROL_NAMES:
        return f"{name} cannot be a default: pass it in the call."
    close = nearest(name, [*OPTION_TRAITS, *CONTROL_NAMES])
    hint = f"did you mean {close!r}?" if close else "GenerationOptions lists all options."
    return f"There is no option {name!r:.60} in edgeseq: {hint}"


def _useless(merged: Mapping[str, Any], caller: set[str]) -> set[str]:
    """Return the options of the bundle that do not fit the strategy of this call."""
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
    """Remove options whose None turns off a bundle's default, so that Transformers' applies."""
    return {
        name: value
        for name, value in merged.items()
        if value is not None or name in NONE_BY_DEFAULT
    }


def _check_effects(options: GenerationOptions, caller: set[str], kind: Kind) -> None:
    for name, only in ONLY_FOR.items():
        falls_back = name == "bos_token_id" and options.decoder_start_token_id is None
        if name in caller and kind != only and not falls_back:
            raise OptionError(f"{name} has no effect with {kind} models: leave it out.")
    for name, other in INSTEAD.items():
        if name in caller and other in caller:
            raise OptionError(f"{name} has no effect with {other}: pass one of them.")
    for name, traits in OPTION_TRAITS.items():
        if name in caller and traits.needs is not None and not traits.needs.is_met(options):
            raise OptionError(f"{name} has no effect {traits.needs.words}.")
