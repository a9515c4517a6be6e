"""Example values of every option, the options that they need, and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeseq.runtime import OptionError
from edgeseq.runtime.bundle.manifest import Kind
from edgeseq.runtime.request.options import GenerationOptions
from edgeseq.runtime.request.resolving import resolve_options
from tests.support.errors import VALUE, refusal

EXAMPLES: dict[str, tuple[Any, Any]] = {
    "max_new_tokens": (7, 9),
    "max_length": (30, 40),
    "min_new_tokens": (2, 0),
    "min_length": (2, 0),
    "max_time": (1.5, 0.0),
    "stop_strings": ("\n", (".", "!")),
    "eos_token_id": (5, 6),
    "do_sample": (True, False),
    "num_beams": (2, 4),
    "num_beam_groups": (4, 2),
    "num_return_sequences": (2, 3),
    "prompt_lookup_num_tokens": (3, 5),
    "logprobs": (0, 3),
    "temperature": (0.5, 0.7),
    "top_k": (5, 0),
    "top_p": (0.5, 0.9),
    "min_p": (0.1, 0.0),
    "typical_p": (0.3, 0.9),
    "epsilon_cutoff": (1e-3, 0.0),
    "eta_cutoff": (1e-3, 0.0),
    "seed": (1, 2),
    "length_penalty": (2.0, -1.0),
    "early_stopping": (True, "never"),
    "diversity_penalty": (0.5, 1.5),
    "max_matching_ngram_size": (3, 1),
    "pad_token_id": (5, 6),
    "repetition_penalty": (1.2, 1.0),
    "encoder_repetition_penalty": (1.2, 1.0),
    "presence_penalty": (0.5, -2.0),
    "frequency_penalty": (0.5, -2.0),
    "no_repeat_ngram_size": (3, 0),
    "encoder_no_repeat_ngram_size": (3, 0),
    "bad_words_ids": (((5, 6), (7,)), ((8,),)),
    "sequence_bias": ((((5, 6), 1.5),), {(5,): -2.0}),
    "suppress_tokens": ((5, 6), (7,)),
    "begin_suppress_tokens": ((5, 6), (7,)),
    "forced_bos_token_id": (5, 6),
    "forced_eos_token_id": (5, (6, 7)),
    "exponential_decay_length_penalty": ((5, 1.5), (0, 2.0)),
    "remove_invalid_values": (True, False),
    "renormalize_logits": (True, False),
    "truncation": ("left", True),
    "bos_token_id": (5, 6),
    "decoder_start_token_id": (5, 6),
}
SAMPLING = {"do_sample": True}
BEAMS = {"num_beams": 4}
GROUPS = {**BEAMS, "num_beam_groups": 2, "diversity_penalty": 1.0}
ENDING = {"eos_token_id": 3}
# What an option needs in order to have an effect, or to be taken at all.
BESIDE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("temperature", "top_k", "top_p", "min_p", "typical_p"),
            *("epsilon_cutoff", "eta_cutoff", "seed", "num_return_sequences"),
        ),
        SAMPLING,
    ),
    **dict.fromkeys(("length_penalty", "early_stopping"), BEAMS),
    **dict.fromkeys(("diversity_penalty", "num_beam_groups", "pad_token_id"), GROUPS),
    **dict.fromkeys(("min_new_tokens", "min_length", "exponential_decay_length_penalty"), ENDING),
    "max_matching_ngram_size": {"prompt_lookup_num_tokens": 3},
}

KINDS: dict[str, Kind] = {"decoder_start_token_id": "encoder-decoder"}  # the others: decoder-only


def resolve(bundle: dict[str, Any], caller: dict[str, Any]) -> GenerationOptions:
    """Resolve the options for a model of the kind that the caller's options need."""
    kinds = {kind for name, kind in KINDS.items() if name in caller}
    return resolve_options(bundle, caller, kinds.pop() if kinds else "decoder-only")


def options_error(
    caller: dict[str, Any],
    bundle: dict[str, Any] | None = None,
    prompt_length: int = 1,
    resolve: Callable[..., GenerationOptions] = resolve,
) -> str:
    """Return the one sentence of the ``OptionError`` that the options raise."""
    return refusal(
        OptionError,
        lambda: resolve(bundle or {}, caller).new_tokens(prompt_length),
        ending=VALUE,
        longest=2000,
    )
