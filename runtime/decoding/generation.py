"""One generation, from prompts and options to a search that is ready to run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..bundle.manifest import Manifest
from ..decoder import NewDecoder
from ..errors import OptionError
from ..logits.guidance import Guide
from ..logits.processors import (
    Diversity,
    Processor,
    Prompt,
    constrained,
    sampling_processors,
    text_processors,
)
from ..logits.softmax import DeadEndError
from ..request.controls import Controls
from ..request.options import GenerationOptions
from ..results import FinishReason
from ..text.byte_tokenizer import ByteTokenizer
from ..text.detokenizer import Detokenizer
from ..text.stop_strings import StopMatcher
from ..text.tokenizer import Tokenizer
from .beam_search import BeamSearch
from .greedy_and_sampling import RowSearch
from .group_beam_search import GroupBeamSearch
from .loop import NewToken, Search, decode
from .prompt_lookup import LookupSearch
from .stopping import Stopping

Ids = Sequence[int]
TIES = 32  # logits that may be equal to the lowest that top_k keeps, which keeps them too


class Generation(NamedTuple):
    """A search, and the steps that do the work when they are asked for."""

    search: Search
    steps: Iterator[Sequence[NewToken]]


class Outputs(NamedTuple):
    """The texts that generations write: what belongs to them, and how their tokens are read."""

    manifest: Manifest
    tokenizer: Tokenizer | ByteTokenizer

    def context(self, start: Ids) -> Ids:
        """The tokens of the output that the text goes on from: those after the start token.

        A prompt's continuation without an encoder is a text by itself, as in Transformers.
        """
        return start[1:] if self.manifest.kind == "encoder-decoder" else ()

    def detokenizer(self, start: Ids) -> Detokenizer:
        """What makes text of the tokens that come after ``start``."""
        detokenizer = Detokenizer(self.tokenizer)
        for token in self.context(start):
            detokenizer.push(token)
        return detokenizer

    def text(self, start: Ids, token_ids: Ids) -> str:
        """The text that ``token_ids`` add to what the decoder started from."""
        if not self.context(start):
            return self.tokenizer.decode(token_ids)
        detokenizer = self.detokenizer(start)
        return "".join(map(detokenizer.push, token_ids)) + detokenizer.finish()


def new_generation(
    outputs: Outputs,
    new_decoder: NewDecoder,
    prompts: Sequence[Ids],
    starts: Sequence[Ids],
    options: GenerationOptions,
    arguments: Controls,
    began: float,
) -> Generation:
    """Check what depends on the prompts, and make the search.

    ``starts``: what the decoder reads first, for each prompt. ``began``: when the call did, in
    seconds of ``time.perf_counter``.
    """
    manifest = outputs.manifest
    tasks = [
        Prompt(start, prompt, _limit(len(start), options, manifest))
        for start, prompt in zip(starts, prompts, strict=True)
    ]
    guide = _guide(outputs, options, arguments)
    constraint = None
    if guide is not None:
        at_start = [not outputs.context(task.start) for task in tasks]
        constraint = constrained(guide, tasks, at_start)
    groups = options.strategy == "group beam search"
    diversity = Diversity(options.diversity_penalty) if groups else None
    of_texts = text_processors(options, tasks, arguments, constraint, diversity)
    processors = [*of_texts, *sampling_processors(options)]
    stopping = Stopping(frozenset(options.eos_token_ids), _new_matcher(outputs, starts, options))
    search = new_search(tasks, options, processors, stopping, diversity)
    # The last new token is never read, so it needs no place in the cache.
    capacity = max(len(task.start) + task.limit - 1 for task in tasks)
    interrupted = _interrupted(options, arguments, began)
    best = None if of_texts else _deciding(options)
    steps = decode(lambda: new_decoder(prompts, capacity), starts, search, interrupted, best)
    return Generation(search, _explained(steps, guide))


def _deciding(options: GenerationOptions) -> int | None:
    """How many of a row's highest logits decide, where texts do not change them; None: any may."""
    if options.logprobs is not None:
        return None
    if options.strategy == "greedy":
        return 1
    if options.strategy != "sampling" or not options.top_k:
        return None
    return options.top_k + TIES


def _limit(start_length: int, options: GenerationOptions, manifest: Manifest) -> int:
    """New tokens of a prompt at most: the options' limit, or where the positions end."""
    limit = options.new_tokens(start_length)
    positions = manifest.dimensions.max_positions
    return limit if positions is None else min(limit, positions - start_length + 1)


def _guide(outputs: Outputs, options: GenerationOptions, arguments: Controls) -> Guide | None:
    if not arguments.guides:
        return None
    return Guide(
        outputs.tokenizer,
        outputs.manifest.dimensions.vocabulary,
        options.eos_token_ids,
        **{name: getattr(arguments, name) for name in arguments.guides},
    )


def _explained(
    steps: Iterator[Sequence[NewToken]], guide: Guide | None
) -> Iterator[Sequence[NewToken]]:
    """``steps``; where no token may come next, the error says what ``guide`` asked for."""
    try:
        yield from steps
    except DeadEndError as error:
        described = "" if guide is None else guide.describe_dead_end()
        raise OptionError(described or str(error)) from error


def _new_matcher(
    outputs: Outputs, starts: Sequence[Ids], options: GenerationOptions
) -> Callable[[int], StopMatcher] | None:
    if not options.stops:
        return None
    return lambda prompt: StopMatcher(outputs.detokenizer(starts[prompt]), options.stops)


def _interrupted(
    options: GenerationOptions, arguments: Controls, began: float
) -> Callable[[], FinishReason | None]:
    if arguments.cancel is None and options.max_time is None:
        return lambda: None

    def reason() -> FinishReason | None:
        if arguments.is_cancelled():
            return "cancelled"
        limit = options.max_time
        return "time" if limit is not None and time.perf_counter() - began > limit else None

    return reason


def new_search(
    tasks: Sequence[Prompt],
    options: GenerationOptions,
    processors: Sequence[Processor],
    stopping: Stopping,
    diversity: Diversity | None = None,
) -> Search:
    """The search for ``options``; ``OptionError`` if it cannot serve so many prompts."""
    match options.strategy:
        case "greedy" | "sampling":
            return RowSearch(tasks, options, processors, stopping)
        case "beam search":
            return BeamSearch(tasks, options, processors, stopping)
        case "prompt lookup":
            if len(tasks) != 1:
                raise OptionError(
                    f"prompt_lookup_num_tokens is for one prompt at a time, not {len(tasks)}."
                )
            return LookupSearch(tasks[0], options, processors, stopping)
        case "group beam search":
            assert diversity is not None
            return GroupBeamSearch(tasks, options, processors, stopping, diversity)
