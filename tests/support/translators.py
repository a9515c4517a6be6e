"""Small multilingual checkpoints with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.support.family_checkpoints import seeded_model
from tests.support.sentencepieces import write_multilingual


def save_network(folder: Path, name: str, **generation: Any) -> None:
    """Save the network ``name`` of ``family_checkpoints`` for the tokenizer in ``folder``.

    ``generation``: the checkpoint's generation defaults.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = seeded_model(
        name,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
    )
    network.generation_config.update(**generation)
    network.save_pretrained(folder)


def save_nllb(folder: Path, **generation: Any) -> None:
    """Save a checkpoint like NLLB's, with all of its languages, to ``folder``."""
    write_multilingual(folder, "NllbTokenizer", src_lang="eng_Latn")
    save_network(folder, "m2m_100-0", **generation)
