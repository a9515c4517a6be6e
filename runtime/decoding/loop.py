"""Choosing the next tokens, and which rows they go on.

A search turns logits into tokens. It does not know how the logits are made or where the cache
lies. A row whose text has ended is not named again, so that it leaves the batch.

A step reads hundreds of megabytes of weights, so that all of this runs with cold caches: what is
done for each token is plain Python on few objects, which touches less memory than numpy calls or
frozen dataclasses do (`benchmarks/loop_overhead.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ..decoder import CancelledError, Decoder, Logits
from ..results import FinishReason
from .scoring import Logprobs


class NewToken(NamedTuple):
    """A token that is decided, and whether it ends its text."""

    text: int  # which text: those of the first prompt come first
    token: int
    finish_reason: FinishReason | None


class Choice(NamedTuple):
    """What a step decided."""

    next_tokens: Sequence[int]  # tokens to read next: one a row that goes on, or several of one row
    parent_rows: Sequence[int]  # the row of this step that each goes on from
    new_tokens: Sequence[NewToken]  # for the caller
    rejected: int = 0  # of the tokens that the only row read last, how many it has to forget


class Found(NamedTuple):
    """A text that a search found."""

    text: int  # which text's new tokens tell when it came about
    token_ids: Sequence[int]  # new ones
    finish_reason: FinishReason
    score: float | None = None  # of a hypothesis
    logprobs: Logprobs | None = None  # if asked for


class Search(Protocol):
    """A strategy for one generation."""

    def choose(self, logits: Logits, interrupt: FinishReason | None = None) -> Choice:
        """Decide on ``logits`` (rows, vocabulary), which may be changed in place.

        ``interrupt``: why no step may follow this one, if that is so.
        """

    def results(self) -> Sequence[Found]:
        """What was found, a prompt's texts one after the other, the best first."""


def decode(
    new_decoder: Callable[[], Decoder],
    prompts: Sequence[Sequence[int]],
    search: Search,
    interrupted: Callable[[], FinishReason | None] = lambda: None,
    best: int | None = None,
) -> Iterator[Sequence[NewToken]]:
    """Generate from ``prompts``, yielding what each step decided until no row goes on.

    The decoder is made when the first step is asked for.
    ``interrupted`` is asked at every step why it has to be the last one, if so. Cancelled before
    the first step, or between the parts of its prompt, there is none. ``best``: how many of a row's
    highest logits decide; None: any may.
    """
    if interrupted() == "cancelled":
        return
    decoder = new_decoder()
    try:
        if best is not None:
            decoder.keep_best(best)
        logits = decoder.prefill(prompts, lambda: interrupted() == "cancelled")
        rows = list(range(len(prompts)))
        while True:
            next_tokens, parent_rows, new_tokens, rejected = search.choose(logits, interrupted())
            if rejected:
                decoder.forget(rejected)
            yield new_tokens
            if not next_tokens:
                return
            if parent_rows != rows:
                decoder.select_rows(parent_rows)
                rows = list(range(len(parent_rows)))
            one_each = len(next_tokens) == len(rows)
            logits = decoder.decode(next_tokens) if one_each else decoder.read(next_tokens)
    except CancelledError:
        return
    finally:
        decoder.close()
