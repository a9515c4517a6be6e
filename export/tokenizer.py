"""The tokenizer of a checkpoint as the one ``tokenizer.json`` that the runtime reads."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from edgeseq.runtime.errors import CheckpointError, reason
from edgeseq.runtime.manifest import TokenizerFile

TOKENIZER_FILE = "tokenizer.json"
SLOW_FILES = ("vocab.json", "merges.txt")


def write_tokenizer(checkpoint: Path, folder: Path) -> TokenizerFile:
    """Write ``folder/tokenizer.json``: Transformers' fast tokenizer, converted from a slow one
    where the checkpoint has no fast file. Raises ``CheckpointError`` where it has neither.
    """
    if not (checkpoint / TOKENIZER_FILE).is_file() and not all(
        (checkpoint / name).is_file() for name in SLOW_FILES
    ):
        raise CheckpointError(
            f"{checkpoint} has no tokenizer: neither {TOKENIZER_FILE} nor "
            f"{' and '.join(SLOW_FILES)}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, use_fast=True, local_files_only=True)
    except Exception as error:  # a damaged file: tokenizers raises nothing more special
        raise CheckpointError(
            f"{checkpoint} has no usable tokenizer files: {reason(error)}."
        ) from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"The tokenizer {type(tokenizer).__name__} of {checkpoint} has no fast form."
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER_FILE))
    return TokenizerFile(
        file=TOKENIZER_FILE,
        clean_up_tokenization_spaces=bool(tokenizer.clean_up_tokenization_spaces),
    )
