"""The Marian family (Opus-MT): BART's layers with sinusoidal positions."""

from __future__ import annotations

from transformers import MarianMTModel

from .fairseq import EncoderDecoder, sinusoidal_positions

MARIAN = EncoderDecoder(
    MODEL_CLASSES={"marian": MarianMTModel},
    ARCHITECTURES=frozenset({"MarianMTModel", "MarianModel"}),
    norm_first=False,
    positions=sinusoidal_positions,
)
