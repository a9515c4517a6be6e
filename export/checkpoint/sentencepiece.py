"""Convert Marian's and M2M100's tokenizers, which Transformers has only in Python.

The result, ``sentencepiece.json``, is read by ``runtime/text/sentencepiece_tokenizer.py``.
"""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from transformers import MarianTokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from ...runtime.errors import CheckpointError

SENTENCEPIECE_FILE = "sentencepiece.json"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
UNIGRAM, BPE = 1, 2  # types of models


def write_sentencepiece(tokenizer: Any, folder: Path) -> str:
    """Write a ``MarianTokenizer`` or ``M2M100Tokenizer`` to ``folder``; return the file's name.

    Raises ``CheckpointError`` for a tokenizer that the runtime cannot reproduce.
    """
    is_marian = isinstance(tokenizer, MarianTokenizer)
    added = {
        token.content: {"id": number, "lstrip": token.lstrip, "rstrip": token.rstrip}
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    for token in tokenizer.added_tokens_decoder.values():
        if not token.special or token.single_word:
            raise CheckpointError(
                f"The tokenizer has the added token {token.content!r}, which is not special or is "
                "a single word and cannot be exported: add special tokens only."
            )
    source = tokenizer.spm_source if is_marian else tokenizer.sp_model
    target = tokenizer.spm_target if is_marian else None
    languages: dict[str, int] = {} if is_marian else tokenizer.lang_token_to_id
    content = {
        "vocabulary": {**tokenizer.encoder, **languages},
        "target_vocabulary": getattr(tokenizer, "target_encoder", None),
        "added_tokens": added,
        "unknown": str(tokenizer.unk_token),
        "end": tokenizer.eos_token_id,
        "language_codes": is_marian,
        "silent": _pieces_of(source if target is None else target, CONTROL),
        "source": _model(source),
        "target": None if target is None else _model(target),
    }
    text = json.dumps(content, ensure_ascii=False)
    (folder / SENTENCEPIECE_FILE).write_text(text, encoding="utf-8", newline="\n")
    return SENTENCEPIECE_FILE


def _proto(processor: Any) -> Any:
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(processor.serialized_model_proto())
    return proto


def _pieces_of(processor: Any, kind: int) -> list[str]:
    return [piece.piece for piece in _proto(processor).pieces if piece.type == kind]


def _model(processor: Any) -> dict[str, Any]:
    """Return the parts of a SentencePiece model that encoding needs."""
    proto = _proto(processor)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = {piece.type for piece in proto.pieces}
    is_usual = trainer.model_type in (UNIGRAM, BPE) and normalizer.escape_whitespaces
    if not is_usual or trainer.treat_whitespace_as_suffix or kinds & {USER_DEFINED, BYTE}:
        raise CheckpointError(
            "The checkpoint's SentencePiece model has user-defined symbols, byte fallback, spaces "
            "after words, or a type that is neither Unigram nor BPE, which cannot be exported: use "
            "a model without them."
        )
    pieces = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    return {
        "pieces": pieces,
        "merges": _merges(pieces) if trainer.model_type == BPE else None,
        "charsmap": b64encode(normalizer.precompiled_charsmap).decode(),
        "add_dummy_prefix": normalizer.add_dummy_prefix,
        "remove_extra_whitespaces": normalizer.remove_extra_whitespaces,
    }


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the pairs of pieces that BPE merges, the pair with the best result first."""
    found = [
        (score, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    found.sort(key=lambda merge: -merge[0])  # stable
    return [(left, right) for _, left, right in found]
