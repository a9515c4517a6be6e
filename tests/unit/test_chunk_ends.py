"""Chunks of tokens, none of which ends in a tile of one token."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseq.runtime.decoder import chunk_ends, lone_tail


@pytest.mark.parametrize(
    ("count", "ends"),
    [
        (1, [1]),
        (2, [2]),
        (17, [15, 17]),
        (64, [64]),
        (65, [63, 65]),
        (66, [64, 66]),
        (81, [63, 81]),
        (128, [64, 128]),
        (129, [64, 127, 129]),
    ],
)
def test_chunk_ends_by_hand(count: int, ends: list[int]) -> None:
    assert chunk_ends(count, 64, 16) == ends


@given(
    st.integers(1, 3000),
    st.sampled_from([2, 3, 128, 256]),
    st.sampled_from([16, 32, 64, 128, 208, 256]),
)
def test_chunks_cover_all_tokens_and_none_ends_in_a_lone_token(
    count: int, size: int, tile: int
) -> None:
    ends = chunk_ends(count, size, tile)
    sizes = [end - begin for begin, end in pairwise([0, *ends])]
    assert sum(sizes) == count
    assert all(1 < length <= size + 1 for length in sizes) or count == 1
    assert not any(lone_tail(length, tile) for length in sizes)
