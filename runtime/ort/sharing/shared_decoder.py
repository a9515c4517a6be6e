"""The ``Decoder`` of a generation that shares decode steps with others while they last."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...decoder import Logits, never
from ..onnx_decoder import OnnxDecoder
from .shared_cache import Member
from .shared_steps import SharedSteps


class SharedDecoder:
    """A private decoder whose rows move to a shared cache while other generations decode too.

    Prompts, reads of several tokens and forks always use the private cache.
    """

    def __init__(self, private: OnnxDecoder, steps: SharedSteps) -> None:
        self._private = private
        self._steps = steps
        self._member = Member(private)
        self._parents: list[int] | None = None  # shared rows to select before the next step
        self._reads_several = False  # prompt lookup: moving back and forth would cost more

    def prefill(
        self, prompts: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never
    ) -> Logits:
        """Read one prompt for each row, by the private decoder."""
        self._leave()
        self._reads_several = False
        return self._private.prefill(prompts, cancelled)

    def keep_best(self, count: int | None) -> None:
        """Declare that only the ``count`` highest logits of each row are needed; None: all."""
        self._private.keep_best(count)

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append one token to each row, together with other generations if there are any."""
        member = self._member
        if member.place is None:
            self._select_private()
            if self._reads_several:
                return self._private.decode(tokens)
            if not self._steps.has_company(member):
                logits = self._private.decode(tokens)
                self._steps.note_end(member)
                return logits
        logits = self._steps.decode(member, tokens, self._parents)
        self._parents = None
        return logits

    def read(self, tokens: Sequence[int]) -> Logits:
        """Append ``tokens`` to the only row, by the private decoder."""
        self._leave()
        if not self._reads_several:
            self._reads_several = True
            self._steps.pause(self._member)
        return self._private.read(tokens)

    def forget(self, count: int) -> None:
        """Drop the last ``count`` tokens of the only row."""
        self._leave()
        self._private.forget(count)

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        """Reorder the cache: row ``i`` becomes a copy of row ``parent_rows[i]``; drop others."""
        parents = list(parent_rows)
        if self._parents is not None:
            parents = [self._parents[parent] for parent in parents]
        place = self._member.place
        if place is not None and place.takes(parents):
            self._parents = parents
            return
        self._parents = None
        self._leave()
        self._private.select_rows(parents)

    def close(self) -> None:
        """End the generation, and free the shared rows."""
        self._steps.close(self._member)

    def pause(self) -> None:
        """End a call: the rows move back to the private cache."""
        self._steps.pause(self._member)

    def fork(self) -> SharedDecoder:
        """Return another decoder whose only row is a copy of this decoder's only row."""
        self._leave()
        return SharedDecoder(self._private.fork(), self._steps)

    def cache_bytes(self, positions: int) -> int:
        """Return the bytes of memory for ``positions`` of one row, with its encoder output."""
        return self._private.cache_bytes(positions)

    def __del__(self) -> None:
        self.close()

    def _leave(self) -> None:
        self._steps.leave(self._member)
        self._select_private()

    def _select_private(self) -> None:
        """Select rows that were to be selected in the shared cache before it was left."""
        if self._parents is not None:
            self._private.select_rows(self._parents)
            self._parents = None
