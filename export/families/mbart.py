"""The mBART family: BART's layers with norms before them."""

from __future__ import annotations

from transformers import MBartForConditionalGeneration

from .fairseq import EncoderDecoder, learned_positions

MBART = EncoderDecoder(
    MODEL_CLASSES={"mbart": MBartForConditionalGeneration},
    ARCHITECTURES=frozenset({"MBartForConditionalGeneration", "MBartModel"}),
    norm_first=True,
    positions=learned_positions,
)
