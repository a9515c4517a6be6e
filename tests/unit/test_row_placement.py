"""The rows that texts get in a KV cache, and the copies that it needs, with lists as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeseq.runtime.ort.kv_cache import RowCopy, in_order, place_rows

Row = list[int]
thoroughly = settings(max_examples=200, derandomize=True, database=None, deadline=None)


class Case(NamedTuple):
    rows: list[Row]  # what each row holds
    sources: list[int]
    slots: list[range]


def common_prefixes(rows: Sequence[Row]) -> NDArray[np.int64]:
    def common(one: Row, other: Row) -> int:
        same = [a == b for a, b in zip(one, other, strict=False)]
        return len(same) if all(same) else same.index(False)

    return np.array([[common(one, other) for other in rows] for one in rows], np.int64)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw rows of one length with many common prefixes, and texts in groups of slots."""
    group = draw(st.integers(1, 4))
    groups = draw(st.integers(1, 3))
    count = group * groups
    length = draw(st.integers(1, 5))
    tokens = st.lists(st.integers(0, 1), min_size=length, max_size=length)
    rows = draw(st.lists(tokens, min_size=count, max_size=count))
    sources, slots = [], []
    for number in range(groups):
        texts = draw(st.integers(0, group))
        parents = st.integers(0, count - 1)
        sources += draw(st.lists(parents, min_size=texts, max_size=texts))
        slots += [range(number * group, (number + 1) * group)] * texts
    return Case(rows, sources, slots)


def moved(rows: Sequence[Row], copies: Sequence[RowCopy]) -> list[Row]:
    """Return the rows after the copies, made one after the other."""
    rows = [list(row) for row in rows]
    for source, target, begin in copies:
        rows[target][begin:] = rows[source][begin:]
    return rows


def all_at_once(rows: Sequence[Row], copies: Sequence[RowCopy]) -> list[Row]:
    after = [list(row) for row in rows]
    for source, target, begin in copies:
        after[target][begin:] = rows[source][begin:]
    return after


@thoroughly
@given(cases())
def test_each_text_gets_one_of_its_allowed_rows_alone(case: Case) -> None:
    found, copies = place_rows(case.sources, case.slots, common_prefixes(case.rows))
    assert len(set(found)) == len(found) == len(case.sources)
    assert all(row in allowed for row, allowed in zip(found, case.slots, strict=True))
    assert len({copy.target for copy in copies}) == len(copies)
    assert {copy.target for copy in copies} <= set(found)


@thoroughly
@given(cases())
def test_the_copies_make_the_rows_what_their_parents_were(case: Case) -> None:
    found, copies = place_rows(case.sources, case.slots, common_prefixes(case.rows))
    after = all_at_once(case.rows, copies)
    assert [after[row] for row in found] == [case.rows[source] for source in case.sources]


@thoroughly
@given(cases())
def test_ordered_copies_do_what_all_at_once_would(case: Case) -> None:
    _, copies = place_rows(case.sources, case.slots, common_prefixes(case.rows))
    ordered = in_order(copies)
    if ordered is not None:
        assert sorted(ordered) == sorted(copies)
        assert moved(case.rows, ordered) == all_at_once(case.rows, copies)


@thoroughly
@given(cases())
def test_a_text_stays_where_it_is_if_it_can(case: Case) -> None:
    found, copies = place_rows(case.sources, case.slots, common_prefixes(case.rows))
    pairs = list(zip(case.sources, case.slots, strict=True))
    # Of several texts of a row one stays there, and of the others each is copied once.
    staying = {source for source, allowed in pairs if source in allowed}
    assert staying <= set(found)
    assert all(
        source in staying for source, row in zip(case.sources, found, strict=True) if source == row
    )
    assert len(copies) == len(pairs) - len(staying)


@thoroughly
@given(cases())
def test_within_a_group_they_can_always_be_ordered(case: Case) -> None:
    """If texts continue rows of their own group, no row that is read is overwritten before."""
    own = [i for i, source in enumerate(case.sources) if source in case.slots[i]]
    sources, slots = [case.sources[i] for i in own], [case.slots[i] for i in own]
    _, copies = place_rows(sources, slots, common_prefixes(case.rows))
    assert in_order(copies) is not None
    assert all(copy.target not in sources for copy in copies)


@thoroughly
@given(cases())
def test_only_what_follows_the_common_part_is_copied(case: Case) -> None:
    common = common_prefixes(case.rows)
    found, copies = place_rows(case.sources, case.slots, common)
    for source, target, begin in copies:
        assert begin == common[source, target]
        # No row that nobody has in the end would have been better.
        allowed = case.slots[found.index(target)]
        unused = [row for row in allowed if row not in found]
        assert all(common[row, source] <= begin for row in unused)


@pytest.mark.parametrize(
    ("sources", "count", "rows", "copies"),
    [
        ([], 3, [], []),
        ([0, 1, 2], 3, [0, 1, 2], []),
        ([2, 0, 1], 3, [2, 0, 1], []),  # no one has to move
        ([0, 2], 2, [0, 1], [(2, 1)]),  # the last row fills the gap
        ([1], 1, [0], [(1, 0)]),
        ([1, 2, 3], 3, [1, 2, 0], [(3, 0)]),
        ([0, 3, 4], 3, [0, 1, 2], [(3, 1), (4, 2)]),
        ([0, 0, 0], 3, [0, 1, 2], [(0, 1), (0, 2)]),
        ([1, 1], 2, [1, 0], [(1, 0)]),
    ],
    ids=str,
)
def test_rows_that_have_nothing_in_common(
    sources: list[int], count: int, rows: list[int], copies: list[tuple[int, int]]
) -> None:
    nothing = np.zeros((5, 5), np.int64)
    found = place_rows(sources, [range(count)] * len(sources), nothing)
    assert found == (rows, [RowCopy(*pair, 0) for pair in copies])


def test_a_copy_goes_where_most_is_there_already() -> None:
    rows = [[1, 2, 3, 4], [9, 9, 9, 9], [1, 2, 9, 9], [1, 9, 9, 9]]
    found = place_rows([0, 0, 0], [range(4)] * 3, common_prefixes(rows))
    assert found == ([0, 2, 3], [RowCopy(0, 2, 2), RowCopy(0, 3, 1)])


def test_what_is_read_later_is_not_overwritten_before() -> None:
    copies = [RowCopy(1, 0, 0), RowCopy(2, 1, 0), RowCopy(3, 2, 0)]
    assert in_order(copies) == copies
    assert in_order(copies[::-1]) == copies
    assert in_order([]) == []


def test_copies_in_a_ring_have_no_order() -> None:
    assert in_order([RowCopy(0, 1, 0), RowCopy(1, 0, 0)]) is None
    assert (
        in_order([RowCopy(0, 1, 0), RowCopy(1, 2, 0), RowCopy(2, 0, 0), RowCopy(0, 4, 0)]) is None
    )
    swapped = place_rows([0, 2], [range(2, 4), range(2)], np.zeros((4, 4), np.int64))
    assert swapped == ([2, 0], [RowCopy(0, 2, 0), RowCopy(2, 0, 0)])
