"""One generation: the search for a request, and the steps that run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..bundle.manifest import Manifest
from ..decoder import NewDecoder
from ..errors import OptionError
from ..logits.processors import (
    Diversity,
    Processor,
    Prompt,
    constrained,
    sampling_processors,
    text_processors,
)
from ..request.controls import Controls
from ..request.options import GenerationOptions
from ..request.request import Request
from ..results import FinishReason
from ..text.byte_tokenizer import AnyTokenizer
from ..text.detokenizer import Detokenizer
from ..text.stop_strings import StopMatcher
from .greedy_and_sampling import RowSearch
from .loop import NewToken, Search, decode
from .stopping import Stopping

if TYPE_CHECKING:
    from ..logits.guidance import Guide

Ids = Sequence[int]
TIES = 32  # additional logits, because top_k keeps all logits that equal its lowest one


class Generation(NamedTuple):
    """A search and an iterator of its steps. Reading the iterator does the work."""

    search: Search
    steps: Iterator[Sequence[NewToken]]


class Outputs(NamedTuple):
    """The conversion of a model's output tokens to text."""

    manifest: Manifest
    tokenizer: AnyTokenizer

    def encode(self, text: str) -> list[int]:
        """Return the tokens of an output with the text ``text``."""
        if not self.manifest.has_encoder:
            return self.tokenizer.encode_continuation(text)
        ids = self.tokenizer.encode_target(text)
        languages = self.manifest.tokenizer.languages
        if languages is not None and languages.place == "suffix":
            ids.pop()  # the language, which follows the end of the output
        return ids

    def context(self, start: Ids) -> Ids:
        """Return the start tokens that belong to the output.

        In an encoder-decoder model these are all but the first. In a decoder-only model there are
        none: a continuation is decoded by itself, as in Transformers.
        """
        return start[1:] if self.manifest.has_encoder else ()

    def detokenizer(self, start: Ids) -> Detokenizer:
        """Return a detokenizer for the tokens after ``start``."""
        detokenizer = Detokenizer(self.tokenizer)
        for token in self.context(start):
            detokenizer.push(token)
        return detokenizer

    def text(self, start: Ids, token_ids: Ids) -> str:
        """Return the text that ``token_ids`` add to the output after ``start``."""
        if not self.context(start):
            return self.tokenizer.decode(token_ids)
        detokenizer = self.detokenizer(start)
        return "".join(map(detokenizer.push, token_ids)) + detokenizer.finish()


def new_generation(
    outputs: Outputs, new_decoder: NewDecoder, request: Request, began: float
) -> Generation:
    """Return the search for a request, and its steps.

    ``began``: ``time.perf_counter()`` at the call's start. Raises ``OptionError`` for options that
    leave no room for a token, or for several prompts if the strategy takes only one.
    """
    options, controls, starts = request.options, request.controls, request.starts
    prompts = [
        Prompt(start, source, _limit(len(start), options, outputs.manifest))
        for start, source in zip(starts, request.prompts, strict=True)
    ]
    guide = _guide(outputs, options, controls)
    constraint = None
    if guide is not None:
        at_start = [not outputs.context(start) for start in starts]
        forced = options.forced_bos_token_id
        spelling = None if forced is None else outputs.tokenizer.token(forced)
        is_silent = forced is not None and spelling is None
        languages = outputs.manifest.tokenizer.languages
        if spelling is not None and languages is not None and forced in languages.ids.values():
            raise OptionError(
                f"A constraint has no effect with this target language, whose token {spelling!r} "
                "is not special: list it in additional_special_tokens of tokenizer_config.json, "
                "and export again."
            )
        constraint = constrained(guide, prompts, at_start, skips_forced=is_silent)
    groups = options.strategy == "group beam search"
    diversity = Diversity(options.diversity_penalty) if groups else None
    of_texts = text_processors(options, prompts, controls, constraint, diversity)
    processors = [*of_texts, *sampling_processors(options)]
    stopping = Stopping(frozenset(options.eos_token_ids), _new_matcher(outputs, starts, options))
    search = new_search(prompts, options, processors, stopping, diversity)
    # The last new token is never read, so it needs no position in the KV cache.
    capacity = max(len(prompt.start) + prompt.limit - 1 for prompt in prompts)
    steps = decode(
        lambda: new_decoder(request.prompts, capacity),
        starts,
        search,
        _interrupted(options, controls, began),
        None if of_texts else _deciding(options),
        str if guide is None else guide.describe_dead_end,
    )
    return Generation(search, steps)


def new_search(
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    processors: Sequence[Processor],
    stopping: Stopping,
    diversity: Diversity | None = None,
) -> Search:
    """Return a search for the options' strategy.

    The searches that few calls need are imported when they are needed. Raises ``OptionError`` for
    several prompts if the strategy takes only one.
    """
    match options.strategy:
        case "greedy" | "sampling":
            return RowSearch(prompts, options, processors, stopping)
        case "beam search":
            from .beam_search import BeamSearch

            return BeamSearch(prompts, options, processors, stopping)
        case "prompt lookup":
            if len(prompts) != 1:
                raise OptionError(
                    f"prompt_lookup_num_tokens takes one prompt at a time, not {len(prompts)}: "
                    "generate from each prompt by itself."
                )
            from .prompt_lookup import LookupSearch

            return LookupSearch(prompts[0], options, processors, stopping)
        case "group beam search":
            assert diversity is not None
            from .group_beam_search import GroupBeamSearch

            return GroupBeamSearch(prompts, options, processors, stopping, diversity)


def _deciding(options: GenerationOptions) -> int | None:
    """Return the number of highest logits per row that a search needs; None: all.

    It is valid for a search without processors.
    """
    if options.logprobs is not None:
        return None
    if options.strategy == "greedy":
        return 1
    if options.strategy != "sampling" or not options.top_k:
        return None
    return options.top_k + TIES


def _limit(start_length: int, options: GenerationOptions, manifest: Manifest) -> int:
    """Return the limit of new tokens, from the options and from the model's positions."""
    limit = options.new_tokens(start_length)
    positions = manifest.dimensions.max_positions
    return limit if positions is None else min(limit, positions - start_length + 1)


def _guide(outputs: Outputs, options: GenerationOptions, controls: Controls) -> Guide | None:
    if not controls.guides:
        return None
    from ..logits.guidance import Guide  # late: few calls have a constraint

    return Guide(
        outputs.tokenizer,
        outputs.manifest.dimensions.vocabulary,
        options.eos_token_ids,
        **{name: getattr(controls, name) for name in controls.guides},
    )


def _new_matcher(
    outputs: Outputs, starts: Sequence[Ids], options: GenerationOptions
) -> Callable[[int], StopMatcher] | None:
    if not options.stops:
        return None
    return lambda prompt: StopMatcher(outputs.detokenizer(starts[prompt]), options.stops)


def _interrupted(
    options: GenerationOptions, controls: Controls, began: float
) -> Callable[[], FinishReason | None]:
    if controls.cancel is None and options.max_time is None:
        return lambda: None

    def reason() -> FinishReason | None:
        if controls.is_cancelled():
            return "cancelled"
        limit = options.max_time
        return "time" if limit is not None and time.perf_counter() - began > limit else None

    return reason
