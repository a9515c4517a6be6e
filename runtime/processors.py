"""The options' processors and the draw, put together for one generation.

``logits.py`` says what each does; the order is that of Transformers: first what looks at the text
so far, then, when sampling, temperature, top-k and top-p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeseq.runtime.decoder import Logits, TokenIds
from edgeseq.runtime.logits import (
    apply_temperature,
    block_repeated_ngrams,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)
from edgeseq.runtime.options import GenerationOptions
from edgeseq.runtime.sampling import sample

Processor = Callable[[Logits, Sequence[TokenIds]], None]


def text_processors(options: GenerationOptions) -> list[Processor]:
    """What changes ``logits`` (rows, vocabulary) in place by the rows' ids so far."""
    processors: list[Processor] = []
    penalty, size = options.repetition_penalty, options.no_repeat_ngram_size
    if penalty != 1.0:
        processors.append(lambda logits, tokens: penalize_repetition(logits, tokens, penalty))
    if size > 0:
        processors.append(lambda logits, tokens: block_repeated_ngrams(logits, tokens, size))
    return processors


def draw(
    logits: Logits, options: GenerationOptions, generators: Sequence[np.random.Generator]
) -> TokenIds:
    """One token a row from the sampling distribution; changes ``logits`` in place."""
    if options.temperature != 1.0:
        apply_temperature(logits, options.temperature)
    if options.top_k:
        keep_top_k(logits, options.top_k)
    if options.top_p < 1.0:
        keep_top_p(logits, options.top_p)
    return sample(logits, generators)
