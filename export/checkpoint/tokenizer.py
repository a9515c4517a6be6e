"""Convert a checkpoint's tokenizer to a ``tokenizer.json``, which the runtime reads.

ByT5 needs no file: its tokens are bytes, which the runtime encodes itself.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, ByT5Tokenizer
from transformers.tokenization_utils_base import LARGE_INTEGER

from ...runtime.bundle.manifest import Side, TokenizerFormat
from ...runtime.errors import CheckpointError, reason
from ...runtime.text.byte_tokenizer import FIRST_SENTINEL, SPECIAL_TOKENS, sentinel
from .reading import ReportProgress, quiet_transformers, read_json

TOKENIZER_FILE = "tokenizer.json"
BYTES_CLASS = "ByT5Tokenizer"
LONGEST_REASON = 300  # most characters of an error message that is passed on


def write_tokenizer(
    checkpoint: Path,
    folder: Path,
    slow_files: tuple[str, ...],
    progress: ReportProgress = lambda message: None,
) -> TokenizerFormat:
    """Write ``folder/tokenizer.json``; return the tokenizer's entry in the manifest.

    The file is Transformers' fast tokenizer. If the checkpoint has no fast file, it is converted
    from the slow tokenizer in ``slow_files``. ByT5 gets no file. Raises ``CheckpointError`` if
    there is no tokenizer.
    """
    has_fast_file = (checkpoint / TOKENIZER_FILE).is_file()
    has_slow_files = all((checkpoint / name).is_file() for name in slow_files)
    if not (_names_bytes(checkpoint) or has_fast_file or has_slow_files):
        raise CheckpointError(
            f"{checkpoint} has no tokenizer: add {TOKENIZER_FILE}, or {' and '.join(slow_files)}."
        )
    tokenizer = _load(checkpoint)
    clean_up = bool(tokenizer.clean_up_tokenization_spaces)
    longest = tokenizer.model_max_length
    side: Side = "left" if tokenizer.truncation_side == "left" else "right"
    longest = None if longest > LARGE_INTEGER else int(longest)
    if isinstance(tokenizer, ByT5Tokenizer):
        return TokenizerFormat(
            file=None,
            sentinels=_sentinels(tokenizer),
            special_tokens_strip=_special_tokens_strip(tokenizer),
            clean_up_tokenization_spaces=clean_up,
            model_max_length=longest,
            truncation_side=side,
        )
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"The tokenizer {type(tokenizer).__name__} of {checkpoint} has no fast version in "
            "Transformers: use a checkpoint whose tokenizer has one."
        )
    if not has_fast_file and tokenizer.convert_tokens_to_ids("<0x00>") != tokenizer.unk_token_id:
        progress(
            "the tokenizer has byte fallback, which Transformers' fast version of it does not "
            "support: unknown characters become the unknown token"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER_FILE))
    return TokenizerFormat(
        file=TOKENIZER_FILE,
        sentinels=0,
        special_tokens_strip=False,
        clean_up_tokenization_spaces=clean_up,
        model_max_length=longest,
        truncation_side=side,
    )


def _load(checkpoint: Path) -> Any:
    """Return the checkpoint's Transformers tokenizer, the fast one if it exists."""
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `write_tokenizer` reports what matters
            return AutoTokenizer.from_pretrained(checkpoint, use_fast=True, local_files_only=True)
    except Exception as error:  # `tokenizers` raises this for a damaged file
        why = reason(error)
        if len(why) > LONGEST_REASON:  # a long message is advice about other files
            files = ", ".join(path.name for path in sorted(checkpoint.glob("*.model")))
            why = f"{files or 'its files'} cannot be read as a tokenizer"
        raise CheckpointError(
            f"{checkpoint} has no usable tokenizer ({why}): download or save its files again."
        ) from error


def _names_bytes(checkpoint: Path) -> bool:
    """Return whether the checkpoint's configuration names the tokenizer of ByT5."""
    files = (checkpoint / name for name in ("tokenizer_config.json", "config.json"))
    settings = [read_json(path) for path in files if path.is_file()]
    return any(setting.get("tokenizer_class") == BYTES_CLASS for setting in settings)


def _sentinels(tokenizer: Any) -> int:
    """Return how many sentinels follow the bytes; ``CheckpointError`` for other added tokens."""
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
            "cannot be exported: use ByT5's own special tokens and sentinels only."
        )
    return sentinels


def _special_tokens_strip(tokenizer: Any) -> bool:
    """Return whether ByT5's special tokens strip the whitespace around them.

    Raises ``CheckpointError`` if only some of them do, or if other tokens do.
    """
    tokens = tokenizer.added_tokens_decoder
    flags = {tokens[i].lstrip for i in range(len(SPECIAL_TOKENS))}
    flags |= {tokens[i].rstrip for i in range(len(SPECIAL_TOKENS))}
    others = [token for i, token in tokens.items() if i >= len(SPECIAL_TOKENS)]
    if len(flags) > 1 or any(token.lstrip or token.rstrip for token in others):
        raise CheckpointError(
            "The ByT5 tokenizer's tokens differ in lstrip or rstrip, which cannot be exported: "
            "give all special tokens the same values, and all other tokens false."
        )
    return bool(flags.pop())
