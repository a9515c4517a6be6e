"""The logits processors of one generation, in Transformers' order.

``penalties.py``, ``masks.py`` and ``warpers.py`` define them. The order is: sequence bias,
diversity between groups of beams, penalties, masks, the caller's processors, the constraint, the
warpers (only with sampling) and the normalization.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..decoder import Logits, TokenIds
from ..errors import OptionError
from ..request.controls import Controls, LogitsProcessor, PrefixAllowedTokens
from ..request.options import GenerationOptions
from ..request.prompts import id_range
from . import masks, penalties, warpers
from .softmax import normalize


class Rows(NamedTuple):
    """The sequences whose next tokens the logits predict."""

    tokens: Sequence[TokenIds]  # all ids of each row so far, the start tokens included
    prompts: Sequence[int]  # the index of each row's prompt


class Prompt(NamedTuple):
    """The data of one prompt that a search needs."""

    start: Sequence[int]  # the tokens that the decoder reads first
    source: Sequence[int]  # the encoder's source; in a decoder-only model, the start
    limit: int  # limit of new tokens


class Constraint(Protocol):
    """A constraint on the output (``guidance.py``)."""

    def filter(self, row: Logits, new_tokens: TokenIds, *, at_start: bool) -> None:
        """Set the logits of tokens that are not allowed next to -inf, in ``row`` (vocabulary,).

        ``at_start``: whether ``new_tokens`` are the first tokens of the output.
        """


Processor = Callable[[Logits, Rows], None]  # changes logits (rows, vocabulary) in place


class Diversity:
    """A processor that lowers a token's logit by ``penalty`` each time an earlier group chose it.

    Source: ``HammingDiversityLogitsProcessor`` of Transformers.
    """

    def __init__(self, penalty: float) -> None:
        self.chosen: list[int] = []  # tokens that earlier groups chose in this step
        self._penalty = penalty

    def __call__(self, logits: Logits, rows: Rows) -> None:
        for token, count in Counter(self.chosen).items():
            if token < logits.shape[1]:  # a padding token may be outside the vocabulary
                logits[:, token] -= np.float32(self._penalty * count)


def text_processors(
    options: GenerationOptions,
    prompts: Sequence[Prompt],
    controls: Controls | None = None,
    constraint: Processor | None = None,
    diversity: Diversity | None = None,
) -> list[Processor]:
    """Return the processors that run first, with every strategy.

    ``diversity``: the processor that makes groups of beams differ.
    """
    bias = _of_tokens(penalties.SequenceBias(options.biases)) if options.biases else None
    return [
        *([bias] if bias else []),
        *([diversity] if diversity else []),
        *_penalties(options, prompts),
        *_masks(options, prompts, controls.prefix_allowed_tokens_fn if controls else None),
        *(partial(_call, function) for function in (controls.processors if controls else ())),
        *([constraint] if constraint else []),
    ]


def sampling_processors(options: GenerationOptions) -> list[Processor]:
    """Return the processors that run last: the warpers (with sampling) and the normalization."""
    return [*(_warpers(options) if options.do_sample else ()), *_normalization(options)]


def constrained(
    constraint: Constraint,
    prompts: Sequence[Prompt],
    at_start: Sequence[bool],
    *,
    skips_forced: bool = False,
) -> Processor:
    """Return ``constraint`` as a processor.

    ``at_start``: for each prompt, whether its new tokens are the first tokens of the output.
    ``skips_forced``: whether a token without text, such as the target language, is forced after a
    single start token.
    """
    begins = [len(prompt.start) + (skips_forced and len(prompt.start) == 1) for prompt in prompts]

    def process(logits: Logits, rows: Rows) -> None:
        for row, tokens, prompt in zip(logits, *rows, strict=True):
            if len(tokens) < begins[prompt]:
                continue
            constraint.filter(row, tokens[begins[prompt] :], at_start=at_start[prompt])

    return process


def _penalties(options: GenerationOptions, prompts: Sequence[Prompt]) -> list[Processor]:
    sources = [np.array(prompt.source, np.int64) for prompt in prompts]
    found: list[Processor] = []
    if (reward := options.encoder_repetition_penalty) != 1.0:
        found.append(
            lambda logits, rows: penalties.reward_sources(
                logits, [sources[prompt] for prompt in rows.prompts], reward
            )
        )
    if (penalty := options.repetition_penalty) != 1.0:
        found.append(
            lambda logits, rows: penalties.penalize_repetition(logits, rows.tokens, penalty)
        )
    presence, frequency = options.presence_penalty, options.frequency_penalty
    if presence or frequency:
        begins = [len(prompt.start) for prompt in prompts]
        found.append(
            lambda logits, rows: penalties.penalize_presence(
                logits,
                [ids[begins[i] :] for ids, i in zip(rows.tokens, rows.prompts, strict=True)],
                presence,
                frequency,
            )
        )
    if (size := options.no_repeat_ngram_size) > 0:
        found.append(
            lambda logits, rows: penalties.block_repeated_ngrams(logits, rows.tokens, size)
        )
    if (source_size := options.encoder_no_repeat_ngram_size) > 0:
        found.append(
            lambda logits, rows: penalties.block_source_ngrams(
                logits, rows.tokens, [sources[prompt] for prompt in rows.prompts], source_size
            )
        )
    ends = {(token,) for token in options.eos_token_ids}
    bad = [(word, -np.inf) for word in options.bad_words_ids or () if word not in ends]
    if bad:
        found.append(_of_tokens(penalties.SequenceBias(bad)))
    return found


def _masks(
    options: GenerationOptions, prompts: Sequence[Prompt], allowed: PrefixAllowedTokens | None
) -> list[Processor]:
    begins = [len(prompt.start) for prompt in prompts]
    ends = np.array(options.eos_token_ids, np.int64)
    found: list[Processor] = []
    shortest = [max(options.min_length, begin + (options.min_new_tokens or 0)) for begin in begins]
    if ends.size and (options.min_length or options.min_new_tokens):
        found.append(_at(masks.suppress_before, shortest, ends))
    if allowed is not None:
        found.append(partial(_keep_allowed, allowed))
    bos = options.forced_bos_token_id
    if bos is not None:
        found.append(_at(masks.force_at, [1] * len(prompts), np.array([bos])))
    if options.forced_eos_token_ids:
        lasts = [begin + prompt.limit - 1 for begin, prompt in zip(begins, prompts, strict=True)]
        found.append(_at(masks.force_at, lasts, np.array(options.forced_eos_token_ids)))
    if options.remove_invalid_values:
        found.append(lambda logits, rows: masks.replace_invalid(logits))
    if options.exponential_decay_length_penalty is not None and ends.size:
        start, factor = options.exponential_decay_length_penalty
        found.append(
            lambda logits, rows: penalties.decay_length(
                logits,
                rows.tokens,
                [begins[prompt] for prompt in rows.prompts],
                start,
                factor,
                ends.tolist(),
            )
        )
    if options.suppress_tokens is not None:
        never = np.array(options.suppress_tokens, np.int64)
        found.append(lambda logits, rows: masks.suppress(logits, never))
    if options.begin_suppress_tokens is not None:
        # After a forced first token, the second token counts as the first of the text.
        firsts = [begin + (begin == 1 and bos is not None) for begin in begins]
        found.append(_at(masks.suppress_at, firsts, np.array(options.begin_suppress_tokens)))
    return found


def _warpers(options: GenerationOptions) -> list[Processor]:
    # With beams, at least one kept token must not end the text.
    least = 1 if options.num_beams == 1 else max(len(options.eos_token_ids), 1) + 1
    found: list[Callable[[Logits], None]] = []
    if options.temperature != 1.0:
        found.append(partial(warpers.apply_temperature, temperature=options.temperature))
    if options.top_k:
        found.append(partial(warpers.keep_top_k, top_k=options.top_k, min_tokens_to_keep=least))
    if options.top_p < 1.0:
        found.append(partial(warpers.keep_top_p, top_p=options.top_p, min_tokens_to_keep=least))
    if options.min_p is not None:
        found.append(partial(warpers.keep_min_p, min_p=options.min_p, min_tokens_to_keep=least))
    if options.typical_p < 1.0:
        found.append(
            partial(warpers.keep_typical_p, typical_p=options.typical_p, min_tokens_to_keep=least)
        )
    if (cutoff := options.epsilon_cutoff) > 0.0:
        found.append(partial(warpers.keep_epsilon, epsilon_cutoff=cutoff, min_tokens_to_keep=least))
    if (cutoff := options.eta_cutoff) > 0.0:
        found.append(partial(warpers.keep_eta, eta_cutoff=cutoff, min_tokens_to_keep=least))
    return [_of_logits(warper) for warper in found]


def _normalization(options: GenerationOptions) -> list[Processor]:
    return [_of_logits(normalize)] if options.renormalize_logits else []


def _of_logits(process: Callable[[Logits], None]) -> Processor:
    return lambda logits, rows: process(logits)


def _of_tokens(process: Callable[[Logits, Sequence[TokenIds]], None]) -> Processor:
    return lambda logits, rows: process(logits, rows.tokens)


def _at(
    process: Callable[[Logits, Sequence[TokenIds], Sequence[int], TokenIds], None],
    lengths: Sequence[int],
    ids: TokenIds,
) -> Processor:
    """Return ``process`` for ``ids`` as a processor; ``lengths``: the length for each prompt."""
    return lambda logits, rows: process(
        logits, rows.tokens, [lengths[prompt] for prompt in rows.prompts], ids
    )


def _keep_allowed(allowed: PrefixAllowedTokens, logits: Logits, rows: Rows) -> None:
    for row, tokens, prompt in zip(logits, *rows, strict=True):
        ids = _array("prefix_allowed_tokens_fn", allowed(prompt, tokens.copy()))
        if ids.ndim != 1 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
            raise OptionError(
                f"prefix_allowed_tokens_fn returned {ids.tolist()!r:.60} for prompt {prompt}; it "
                "must return a list of at least one token id."
            )
        if ids.min() < 0 or ids.max() >= row.size:
            raise OptionError(
                f"prefix_allowed_tokens_fn returned ids from {ids.min()} to {ids.max()} for prompt "
                f"{prompt}; {id_range(row.size)}."
            )
        masks.keep_allowed(row, ids)


def _call(function: LogitsProcessor, logits: Logits, rows: Rows) -> None:
    for row, tokens in zip(logits, rows.tokens, strict=True):
        changed = _array("logits_processor", function(tokens.copy(), row))
        if changed.shape != row.shape or changed.dtype.kind not in "fiu":
            raise OptionError(
                f"The logits_processor returned {changed.dtype} of shape {changed.shape}; it must "
                f"return the logits, numbers of shape {row.shape}."
            )
        with np.errstate(over="ignore"):
            row[:] = changed
        if not row.max() < np.inf:
            raise OptionError(
                "The logits_processor returned NaN, infinity or a number too large for float32: to "
                "forbid a token, set its logit to -inf."
            )


def _array(name: str, given: object) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise OptionError(
            f"{name} returned {given!r:.60}; it must return a list of numbers."
        ) from error
