"""An engine for tests, whose decoders come from a function."""

from __future__ import annotations

from typing import Any

from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.concurrency.locks import Slots
from edgeseq.runtime.decoder import NewDecoder
from edgeseq.runtime.model import Model


class ScriptedEngine:
    """The part of an ``Engine`` that a ``Model`` needs, without sessions."""

    device = "cpu"
    device_reason = "it was requested"

    def __init__(self, new_decoder: NewDecoder) -> None:
        self.decoder = new_decoder
        self.slots = Slots(16)

    def check_open(self) -> None:
        """Do nothing: it is never closed."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def model_with(bundle: Bundle, tokenizer: Any, new_decoder: NewDecoder) -> Model:
    """Return a model whose decoders come from ``new_decoder``."""
    engine: Any = ScriptedEngine(new_decoder)
    return Model(bundle, tokenizer, engine)
