"""The Pegasus family: mBART's layers with sinusoidal positions."""

from __future__ import annotations

from transformers import PegasusForConditionalGeneration

from .fairseq import EncoderDecoder, sinusoidal_positions

PEGASUS = EncoderDecoder(
    MODEL_CLASSES={"pegasus": PegasusForConditionalGeneration},
    ARCHITECTURES=frozenset({"PegasusForConditionalGeneration", "PegasusModel"}),
    norm_first=True,
    positions=sinusoidal_positions,
)
