"""The loop that serves every strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edgeseq.runtime.decoder import Decoder
from edgeseq.runtime.search import NewToken, Search


def decode(
    new_decoder: Callable[[], Decoder], prompts: Sequence[Sequence[int]], search: Search
) -> Iterator[Sequence[NewToken]]:
    """Generate from ``prompts``, yielding what each step decided until no row goes on.

    The decoder is made when the first step is asked for: an encoder's work is done then.
    """
    decoder = new_decoder()
    logits = decoder.prefill(prompts)
    rows = list(range(len(prompts)))
    while True:
        next_tokens, parent_rows, new_tokens = search.choose(logits)
        yield new_tokens
        if not next_tokens:
            return
        if parent_rows != rows:
            decoder.select_rows(parent_rows)
            rows = list(range(len(parent_rows)))
        logits = decoder.decode(next_tokens)
