"""Searches on a decoder alone, without a model and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgeseq.runtime.decoder import Decoder
from edgeseq.runtime.decoding.generation import new_search
from edgeseq.runtime.decoding.loop import NewToken, Search, decode
from edgeseq.runtime.decoding.stopping import Stopping
from edgeseq.runtime.logits.processors import Prompt, sampling_processors, text_processors
from edgeseq.runtime.request.options import GenerationOptions
from edgeseq.runtime.results import FinishReason

EOS = 7  # ends a text unless the options say otherwise
Ids = list[int]
Finished = tuple[Ids, str | None]
Interrupted = Callable[[], FinishReason | None]


def search_for(
    prompts: Sequence[Ids], limits: Sequence[int] | int, options: GenerationOptions
) -> Search:
    """Return the search for the options; a single limit is that of all prompts."""
    limits = [limits] * len(prompts) if isinstance(limits, int) else limits
    tasks = [Prompt(ids, ids, limit) for ids, limit in zip(prompts, limits, strict=True)]
    processors = [*text_processors(options, tasks), *sampling_processors(options)]
    return new_search(tasks, options, processors, Stopping(frozenset(options.eos_token_ids)))


def steps_of(
    decoder: Decoder,
    prompts: Sequence[Ids],
    limits: Sequence[int] | int,
    interrupted: Interrupted = lambda: None,
    **options: Any,
) -> Iterator[Sequence[NewToken]]:
    """Yield the new tokens of each step."""
    options.setdefault("eos_token_id", EOS)
    search = search_for(prompts, limits, GenerationOptions(**options))
    return decode(lambda: decoder, prompts, search, interrupted)


def run(
    decoder: Decoder,
    prompts: Sequence[Ids],
    limits: Sequence[int] | int,
    interrupted: Interrupted = lambda: None,
    **options: Any,
) -> list[Finished]:
    """Return ids and finish reason of each text; steps and final results must agree.

    Nothing may come after a finish reason.
    """
    options.setdefault("eos_token_id", EOS)
    search = search_for(prompts, limits, GenerationOptions(**options))
    count = options.get("num_return_sequences", 1)
    texts: list[Ids] = [[] for _ in range(len(prompts) * count)]
    reasons: list[FinishReason | None] = [None] * len(texts)
    for new_tokens in decode(lambda: decoder, prompts, search, interrupted):
        for new in new_tokens:
            assert reasons[new.text] is None
            assert type(new.token) is int
            texts[new.text].append(new.token)
            reasons[new.text] = new.finish_reason
    # Where there was no step, none could tell a reason.
    finished = [
        (ids, reason if ids else "cancelled") for ids, reason in zip(texts, reasons, strict=True)
    ]
    found = search.results()
    assert [text.text for text in found] == list(range(len(texts)))
    assert [(text.token_ids, text.finish_reason) for text in found] == finished
    return finished
