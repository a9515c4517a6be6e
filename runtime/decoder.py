"""The one protocol at which the search side and the ONNX Runtime side meet.

A decoder knows token ids and logits. It knows no text, no strategy and no end of sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]


class CancelledError(Exception):
    """A prompt was left when ``read`` of its tokens had been read."""

    def __init__(self, read: int) -> None:
        super().__init__(read)
        self.read = read


def never() -> bool:
    """No."""
    return False


class Decoder(Protocol):
    """A model with a cache for the rows of one generation.

    The logits that a call returns belong to the decoder and are overwritten by the next call;
    until then the caller may change them in place.
    """

    def prefill(
        self, prompts: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never
    ) -> Logits:
        """Read the prompts, one a row; the logits after each: (rows, vocabulary).

        A single one goes on from what its row holds already, if it holds something. Between parts
        of it, and while a source is encoded, ``cancelled`` is asked; where it says so,
        ``CancelledError`` is raised.
        """

    def keep_best(self, count: int | None) -> None:
        """Say that only the ``count`` highest logits of a row decide from now on.

        The others may come as -inf from ``prefill`` and ``decode``. None: all decide.
        """

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append ``tokens``, one to each row; the logits after each: (rows, vocabulary)."""

    def read(self, tokens: Sequence[int]) -> Logits:
        """Append ``tokens`` to the only row; the logits after each: (tokens, vocabulary)."""

    def forget(self, count: int) -> None:
        """The only row forgets its last ``count`` tokens."""

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Row ``i`` goes on from what was row ``parent_rows[i]``; the other rows are dropped.

        Several may go on from one, so that there are more rows than before.
        """

    def close(self) -> None:
        """The generation is over."""

    def fork(self) -> Decoder:
        """Another decoder, whose only row holds what the only row of this one does."""

    def cache_bytes(self, positions: int) -> int:
        """Memory for ``positions`` of one row, with what an encoder made of the source."""


# From the token ids of the prompts, or of an encoder's sources, and the positions that a row of
# the decoder can reach. A source is encoded when its decoder reads its first tokens.
NewDecoder = Callable[[Sequence[Sequence[int]], int], Decoder]


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
