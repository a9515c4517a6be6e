"""Batches of prompts of similar length, which need little padding."""

from __future__ import annotations

from collections.abc import Sequence

BATCH_TOKENS = 4096  # limit of tokens in a batch's prompts, including padding
BATCH_ROWS = 16  # limit of prompts in a batch


def batches(
    lengths: Sequence[int], *, rows: int = BATCH_ROWS, tokens: int = BATCH_TOKENS
) -> list[list[int]]:
    """Return batches of similar length, each a list of indices into ``lengths``.

    ``lengths``: the number of tokens of each prompt. A batch has at most ``rows`` prompts. It has
    at most ``tokens`` tokens, unless it is a single prompt.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        count = len(found[-1]) + 1 if found else rows + 1
        if count > rows or count * lengths[i] > tokens:
            found.append([])
        found[-1].append(i)
    return found
