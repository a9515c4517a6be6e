"""Cutting a long prompt into chunks that a decoder reads one after the other."""

from __future__ import annotations


def chunk_ends(count: int, size: int) -> list[int]:
    """Where the chunks of ``count`` tokens, of ``size`` each, end.

    One token alone may be computed in another way than several, and differ in the last bit: a
    single one left over joins the chunk before it.
    """
    ends = [*range(size, count, size), count]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1:
        del ends[-2]
    return ends
