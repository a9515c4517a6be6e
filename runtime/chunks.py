"""Cutting tokens into chunks that a decoder reads one after the other.

ONNX Runtime's attention over a float32 cache takes queries in tiles of twice the head size, and
computes a tile of a single query in another order, with other last bits. A quantized layer behind
it may round them the other way. No chunk of several tokens has such a last tile.
"""

from __future__ import annotations


def lone_tail(count: int, tile: int) -> bool:
    """Whether ``count`` tokens, read at once, leave a tile of one token."""
    return count > 1 and count % tile == 1


def chunk_ends(count: int, size: int, tile: int) -> list[int]:
    """Where the chunks of ``count`` tokens end: of ``size`` each, but that none has a lone tail.

    ``size``: a multiple of ``tile``, or less than it. One token by itself is only ever read where
    ``count`` is 1.
    """
    ends = [*range(size, count, size), count]
    last = ends[-1] - ([0, *ends])[-2]
    if len(ends) > 1 and last % tile == 1 and size > 2:
        ends[-2] -= 1  # from the chunk before: the last one has two in its last tile now
    elif len(ends) > 1 and last == 1:
        del ends[-2]
    elif lone_tail(last, tile):
        ends.insert(-1, count - 2)
    return ends
