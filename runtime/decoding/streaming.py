"""The events of a generation: the tokens of all of its texts, with their pieces of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..request.request import Request
from ..results import StreamEvent
from ..text.stop_strings import PieceStream
from .generation import Generation, Outputs


def stream_events(
    outputs: Outputs, request: Request, generation: Generation
) -> Iterator[StreamEvent]:
    """Run a generation; yield the tokens of each step as events of their texts.

    Each text ends with an event that has a finish reason.
    """
    options, search = request.options, generation.search
    texts = [
        PieceStream(outputs.detokenizer(start), options.stops)
        for start in request.starts
        for _ in range(options.num_return_sequences)
    ]
    ended = [False] * len(texts)
    for new_tokens in generation.steps:
        known = None if options.logprobs is None else search.results()
        for new in new_tokens:
            text = texts[new.text]
            piece = text.push(new.token)
            if new.finish_reason is not None:
                piece += text.finish()
                ended[new.text] = True
            logprobs = None if known is None else known[new.text].logprobs
            at = text.tokens - 1
            yield StreamEvent(
                index=new.text,
                text=piece,
                token_ids=(new.token,),
                finish_reason=new.finish_reason,
                logprobs=None if logprobs is None else (logprobs.of_tokens[at],),
                top_logprobs=None if logprobs is None else (logprobs.of_others[at],),
            )
    # Texts that were cancelled, and all but the best of beam search.
    places: Counter[int] = Counter()
    for found in search.results():
        index = found.text + places[found.text]  # with beams, the same for all texts of a prompt
        places[found.text] += 1
        if not ended[index]:
            text = texts[index]
            rest = found.token_ids[text.tokens :]
            yield StreamEvent(
                index=index,
                text="".join(map(text.push, rest)) + text.finish(),
                token_ids=tuple(rest),
                finish_reason=found.finish_reason,
                logprobs=() if options.logprobs is not None else None,
                top_logprobs=() if options.logprobs is not None else None,
            )
