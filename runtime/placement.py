"""Which row of a cache each text goes on in, so that little has to be copied.

A text stays in its parent's row if it can. Where several go on from one parent, or a row has to
move, it takes the free row whose contents it shares most with: only what follows their last common
ancestor is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Copy(NamedTuple):
    """Positions that one row takes over from another."""

    source: int
    target: int
    begin: int  # what is before it is the same in both


def place(
    sources: Sequence[int], places: Sequence[range], common: Sequence[Sequence[int]]
) -> tuple[list[int], list[Copy]]:
    """The new row of each text, and what to copy for it.

    ``sources``: the row that each goes on from. ``places``: the rows that each may have, of which
    there are enough. ``common``: for each row and each other, how many positions they share from
    the first on; empty if that is not known.
    """
    rows = [-1] * len(sources)
    taken: set[int] = set()
    for i, (source, allowed) in enumerate(zip(sources, places, strict=True)):
        if source in allowed and source not in taken:
            rows[i] = source
            taken.add(source)
    copies = []
    for i, (source, allowed) in enumerate(zip(sources, places, strict=True)):
        if rows[i] < 0:
            free = (row for row in allowed if row not in taken)
            rows[i] = max(free, key=lambda row: common[row][source]) if len(common) else next(free)
            taken.add(rows[i])
            copies.append(Copy(source, rows[i], common[rows[i]][source] if len(common) else 0))
    return rows, copies


def in_order(copies: Sequence[Copy]) -> list[Copy] | None:
    """The copies such that none overwrites what a later one reads; None if that cannot be."""
    ordered: list[Copy] = []
    waiting = list(copies)
    while waiting:
        read = [copy.source for copy in waiting]
        ready = [copy for copy in waiting if copy.target not in read]
        if not ready:
            return None
        ordered += ready
        waiting = [copy for copy in waiting if copy.target in read]
    return ordered
