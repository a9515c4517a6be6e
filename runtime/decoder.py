"""The protocol between the search and ONNX Runtime.

A decoder handles token ids and logits. It does not handle text, strategies or the end of a
sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]


class CancelledError(Exception):
    """Raised if the reading of a prompt is cancelled; ``read``: the number of tokens read."""

    def __init__(self, read: int) -> None:
        super().__init__(read)
        self.read = read


def never() -> bool:
    """Return False: the ``cancelled`` function of a call that cannot be cancelled."""
    return False


class Decoder(Protocol):
    """A model with a KV cache for the rows of one generation.

    The logits that a call returns belong to the decoder, and the next call overwrites them. Until
    then the caller may change them in place.
    """

    def prefill(
        self, prompts: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never
    ) -> Logits:
        """Read one prompt for each row; return the logits after each prompt, (rows, vocabulary).

        A single prompt is appended to the tokens that its row already holds. ``cancelled`` is
        called between the chunks of a single prompt, and repeatedly while a long batch of prompts
        or a long source is read. Raises ``CancelledError`` once it returns True.
        """

    def keep_best(self, count: int | None) -> None:
        """Declare that only the ``count`` highest logits of each row are needed; None: all.

        ``prefill`` and ``decode`` may then return -inf for all other logits.
        """

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append one token to each row; return the logits after each, (rows, vocabulary)."""

    def read(self, tokens: Sequence[int]) -> Logits:
        """Append ``tokens`` to the only row; return the logits after each, (tokens, vocabulary)."""

    def forget(self, count: int) -> None:
        """Drop the last ``count`` tokens of the only row."""

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Reorder the cache: row ``i`` becomes a copy of row ``parent_rows[i]``.

        A row may be copied several times, so that there are more rows than before. A row that is
        not copied is dropped.
        """

    def close(self) -> None:
        """End the generation."""

    def pause(self) -> None:
        """End a call of a session, which keeps the decoder for the next one."""

    def fork(self) -> Decoder:
        """Return a copy of this decoder, which must have one row."""

    def cache_bytes(self, positions: int) -> int:
        """Return the memory in bytes for ``positions`` of one row and its encoder output."""


# new_decoder(prompts, capacity): the token ids of the prompts (or of the encoder's sources) and the
# limit of positions per row. Sources are encoded when the decoder reads its first tokens.
NewDecoder = Callable[[Sequence[Sequence[int]], int], Decoder]


def lone_tail(count: int, tile: int) -> bool:
    """Return whether ``count`` > 1 tokens, read at once, leave a last tile of one token.

    ONNX Runtime's attention over a float32 KV cache computes a tile of one query in another order,
    so a last tile of one token would change bits of the results.
    """
    return count > 1 and count % tile == 1


def chunk_ends(count: int, size: int, tile: int) -> list[int]:
    """Return where the chunks of ``count`` tokens end, so that no chunk has a lone tail.

    ``size``: the usual size of a chunk, at least 2; a multiple of ``tile``, or less than ``tile``.
    A chunk has one token only if ``count`` is 1.
    """
    ends = [*range(size, count, size), count]
    last = ends[-1] - ([0, *ends])[-2]
    if len(ends) > 1 and last % tile == 1 and size > 2:
        ends[-2] -= 1  # the last tile takes a second token from the chunk before
    elif len(ends) > 1 and last == 1:
        del ends[-2]
    elif lone_tail(last, tile):
        ends.insert(-1, count - 2)
    return ends
