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
    while True:
        choice = search.choose(logits)
        yield choice.new_tokens
        if not len(choice.next_tokens):
            return
        if list(choice.parent_rows) != list(range(len(logits))):
            decoder.select_rows(choice.parent_rows)
        logits = decoder.decode(choice.next_tokens)
