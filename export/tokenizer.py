"""The tokenizer of a checkpoint as the one ``tokenizer.json`` that the runtime reads.

ByT5 has no file: its tokens are bytes, which the runtime knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, ByT5Tokenizer

from edgeseq.export.json_file import read_json
from edgeseq.runtime.byte_tokenizer import FIRST_SENTINEL, SPECIAL_TOKENS, sentinel
from edgeseq.runtime.errors import CheckpointError, reason
from edgeseq.runtime.manifest import TokenizerFormat

TOKENIZER_FILE = "tokenizer.json"
BYTES_CLASS = "ByT5Tokenizer"


def write_tokenizer(checkpoint: Path, folder: Path, slow_files: tuple[str, ...]) -> TokenizerFormat:
    """Write ``folder/tokenizer.json``: Transformers' fast tokenizer, converted from a slow one of
    ``slow_files`` where the checkpoint has no fast file; nothing for ByT5's bytes. Raises
    ``CheckpointError`` where there is no tokenizer.
    """
    has_fast_file = (checkpoint / TOKENIZER_FILE).is_file()
    has_slow_files = all((checkpoint / name).is_file() for name in slow_files)
    if not has_fast_file and not has_slow_files and not _names_bytes(checkpoint):
        raise CheckpointError(
            f"{checkpoint} has no tokenizer: neither {TOKENIZER_FILE} nor "
            f"{' and '.join(slow_files)}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, use_fast=True, local_files_only=True)
    except Exception as error:  # a damaged file: tokenizers raises nothing more special
        raise CheckpointError(
            f"{checkpoint} has no usable tokenizer files: {reason(error)}."
        ) from error
    clean_up = bool(tokenizer.clean_up_tokenization_spaces)
    if isinstance(tokenizer, ByT5Tokenizer):
        return TokenizerFormat(
            file=None, sentinels=_sentinels(tokenizer), clean_up_tokenization_spaces=clean_up
        )
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"The tokenizer {type(tokenizer).__name__} of {checkpoint} has no fast form."
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER_FILE))
    return TokenizerFormat(file=TOKENIZER_FILE, sentinels=0, clean_up_tokenization_spaces=clean_up)


def _names_bytes(checkpoint: Path) -> bool:
    """Whether the checkpoint's configuration says that its tokens are ByT5's bytes."""
    files = (checkpoint / name for name in ("tokenizer_config.json", "config.json"))
    return any(
        path.is_file() and read_json(path).get("tokenizer_class") == BYTES_CLASS for path in files
    )


def _sentinels(tokenizer: Any) -> int:
    """How many sentinels follow the bytes; ``CheckpointError`` where anything else was added."""
    added: dict[str, int] = tokenizer.get_added_vocab()
    sentinels = len(added) - len(SPECIAL_TOKENS)
    expected = {
        **{token: number for number, token in enumerate(SPECIAL_TOKENS)},
        **{sentinel(number): FIRST_SENTINEL + number for number in range(sentinels)},
    }
    if added != expected:
        odd = sorted(added.items() - expected.items())[:1] or sorted(
            expected.items() - added.items()
        )
        raise CheckpointError(
            f"The ByT5 tokenizer has the added token {odd[0][0]!r} with the id {odd[0][1]}, which "
            "cannot be exported: only its own special tokens and sentinels can."
        )
    return sentinels
