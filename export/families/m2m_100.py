"""The M2M100 family, with NLLB: mBART's layers with sinusoidal positions."""

from __future__ import annotations

from typing import Any

import torch
from transformers import M2M100ForConditionalGeneration

from .fairseq import EncoderDecoder


def shifted_sinusoidal_positions(embedding: Any, config: Any) -> torch.Tensor:
    """Return the sinusoids of M2M100, which begin after its padding token's id."""
    first = embedding.padding_idx + 1
    rows = first + config.max_position_embeddings
    table: torch.Tensor = embedding.get_embedding(rows, config.d_model, embedding.padding_idx)
    return table[first:]


M2M_100 = EncoderDecoder(
    MODEL_CLASSES={"m2m_100": M2M100ForConditionalGeneration},
    ARCHITECTURES=frozenset({"M2M100ForConditionalGeneration", "M2M100Model"}),
    norm_first=True,
    positions=shifted_sinusoidal_positions,
)
