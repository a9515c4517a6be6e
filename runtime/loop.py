"""The loop that serves every strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeseq.runtime.decoder import Decoder
from edgeseq.runtime.search import NewToken, Search


def decode(
    decoder: Decoder, prompts: Sequence[Sequence[int]], search: Search
) -> Iterator[Sequence[NewToken]]:
    """Generate from ``prompts``, yielding what each step decided until no row goes on."""
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
