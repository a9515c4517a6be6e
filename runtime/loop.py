"""The loop that serves every strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edgeseq.runtime.decoder import CancelledError, Decoder
from edgeseq.runtime.results import FinishReason
from edgeseq.runtime.search import NewToken, Search


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
