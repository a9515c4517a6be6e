"""Batches of prompts of similar length, so that little is padded."""

from __future__ import annotations

from collections.abc import Sequence

BATCH_TOKENS = 4096  # most tokens of a batch's prompts, padding included
BATCH_ROWS = 16  # most prompts in a batch


def batches(
    lengths: Sequence[int], *, rows: int = BATCH_ROWS, tokens: int = BATCH_TOKENS
) -> list[list[int]]:
    """Return the indices of prompts of ``lengths`` in batches of similar length.

    A batch has at most ``rows`` prompts, and at most ``tokens`` tokens unless it is one prompt.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        count = len(found[-1]) + 1 if found else rows + 1
        if count > rows or count * lengths[i] > tokens:
            found.append([])
        found[-1].append(i)
    return found
