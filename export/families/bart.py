"""The BART family: BART and DistilBART."""

from __future__ import annotations

from transformers import BartForConditionalGeneration

from .fairseq import EncoderDecoder, learned_positions

BART = EncoderDecoder(
    MODEL_CLASSES={"bart": BartForConditionalGeneration},
    ARCHITECTURES=frozenset({"BartForConditionalGeneration", "BartModel"}),
    norm_first=False,
    positions=learned_positions,
)
