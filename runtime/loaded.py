"""What all models over one load share: the decoders, the room for them, and their end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from edgeseq.runtime.decoder import Decoder, NewDecoder
from edgeseq.runtime.errors import EdgeseqError
from edgeseq.runtime.turns import Places

MAX_CONCURRENT = 16
CLOSED = "The model is closed: load it again."


class Loaded:
    """Makes decoders until it is closed, in the process that loaded it.

    ``max_concurrent``: how many generations may be under way, each with a cache of its own.
    """

    def __init__(self, new_decoder: NewDecoder, max_concurrent: int = MAX_CONCURRENT) -> None:
        self._new_decoder: NewDecoder | None = new_decoder
        self._is_closed = False
        self._process = os.getpid()
        self.device, self.device_reason = "cpu", "it was asked for"
        self.places = Places(max_concurrent)

    def __call__(self, prompts: Sequence[Sequence[int]], capacity: int) -> Decoder:
        new_decoder = self._new_decoder
        if new_decoder is None:
            raise EdgeseqError(CLOSED)
        return new_decoder(prompts, capacity)

    def check(self) -> None:
        """Raise ``EdgeseqError`` where no call may begin."""
        if self._is_closed:
            raise EdgeseqError(CLOSED)
        if os.getpid() != self._process:
            raise EdgeseqError(
                "The model was loaded before this process was forked, and its threads are not "
                "here: load it in this process."
            )

    def close(self) -> None:
        """Let no call begin, and let go of the weights when those that have begun have ended."""
        self._is_closed = True
        self.places.when_empty(self._let_go)

    def _let_go(self) -> None:
        self._new_decoder = None
        _return_freed_memory()


def _return_freed_memory() -> None:
    """Ask glibc for what it keeps of freed memory for the next time it is asked for some."""
    if sys.platform == "linux":
        import ctypes  # late: only a model that is closed needs it

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
