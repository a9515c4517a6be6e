"""Convert a checkpoint's tokenizer to the file that the runtime reads.

Transformers' ``AutoTokenizer`` decides which tokenizer a folder has. A fast tokenizer becomes a
``tokenizer.json``. Marian's and M2M100's become a ``sentencepiece.json``. ByT5 needs no file: its
tokens are bytes, which the runtime encodes itself.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import (
    TOKENIZER_MAPPING_NAMES,
    tokenizer_class_from_name,
)
from transformers.tokenization_utils_base import LARGE_INTEGER

from ...runtime.bundle.manifest import ChatFormat, FixedLanguages, Languages, Side, TokenizerFormat
from ...runtime.errors import CheckpointError, reason
from ...runtime.text.byte_tokenizer import FIRST_SENTINEL, SPECIAL_TOKENS, sentinel
from .languages import is_one_language
from .reading import (
    CONFIG_FILE,
    ReportProgress,
    load_config,
    quiet_transformers,
    read_config,
    read_json,
)
from .sentencepiece import write_sentencepiece

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
OPTIONAL_FILES = {TOKENIZER_FILE, SETTINGS_FILE, "target_vocab.json"}
LONGEST_REASON = 300  # most characters of an error message that is passed on


def write_tokenizer(
    source: Path,
    folder: Path,
    progress: ReportProgress = lambda message: None,
    *,
    checkpoint: Path | None = None,
) -> TokenizerFormat:
    """Write the tokenizer in ``source`` to ``folder``; return its entry in the manifest.

    ``checkpoint``: the model's folder, whose config.json applies if ``source`` has none; None if
    it is ``source``. Raises ``CheckpointError`` if there is no tokenizer or it cannot be exported.
    """
    tokenizer = _load(source, checkpoint or source)
    longest = tokenizer.model_max_length
    side: Side = "left" if tokenizer.truncation_side == "left" else "right"
    form = TokenizerFormat(
        file=None,
        sentinels=0,
        special_tokens_strip=False,
        clean_up_tokenization_spaces=bool(tokenizer.clean_up_tokenization_spaces),
        model_max_length=None if longest > LARGE_INTEGER else int(longest),
        truncation_side=side,
        chat=_chat(tokenizer),
    )
    if isinstance(tokenizer, ByT5Tokenizer):
        strip = _special_tokens_strip(tokenizer)
        return form._replace(sentinels=_sentinels(tokenizer), special_tokens_strip=strip)
    form = form._replace(
        languages=_languages(tokenizer), fixed_languages=_fixed_languages(tokenizer)
    )
    if isinstance(tokenizer, MarianTokenizer | M2M100Tokenizer):
        return form._replace(file=write_sentencepiece(tokenizer, folder), is_sentencepiece=True)
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"The tokenizer {type(tokenizer).__name__} of {source} has no fast version in "
            "Transformers: use a checkpoint whose tokenizer has one."
        )
    backend = tokenizer.backend_tokenizer
    has_bytes = tokenizer.convert_tokens_to_ids("<0x00>") != tokenizer.unk_token_id
    if has_bytes and not json.loads(backend.to_str())["model"].get("byte_fallback"):
        progress(
            "the tokenizer has byte fallback, which Transformers' fast version of it does not "
            "support: unknown characters become the unknown token"
        )
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER_FILE))
    return form._replace(file=TOKENIZER_FILE)


def _load(source: Path, checkpoint: Path) -> Any:
    """Return the Transformers tokenizer in ``source``, the fast one if it exists."""
    path, where = source / SETTINGS_FILE, _nearest_config(source, checkpoint)
    settings = read_json(path) if path.is_file() else {}
    config = read_config(where) if where is not None else {}
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    maker: Any = AutoTokenizer
    options = _options(settings)
    if name == "TokenizersBackend":  # the name of Transformers 5 for a tokenizer.json
        maker = PreTrainedTokenizerFast
    elif where is not None and (where != source or name is None):
        options["config"] = load_config(where)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `write_tokenizer` reports what matters
            return maker.from_pretrained(
                source, local_files_only=True, trust_remote_code=False, **options
            )
    except Exception as error:  # `tokenizers` raises this for a damaged file
        missing = _missing_files(source, name, config)
        if missing and not (source / TOKENIZER_FILE).is_file():
            raise CheckpointError(
                f"{source} has no tokenizer: add {TOKENIZER_FILE}, or {' and '.join(missing)}, or "
                "pass --tokenizer FOLDER (in Python: tokenizer=folder)."
            ) from error
        why = reason(error)
        if len(why) > LONGEST_REASON:  # a long message is advice about other files
            files = ", ".join(path.name for path in sorted(source.glob("*.model")))
            why = f"{files or 'its files'} cannot be read as a tokenizer"
        raise CheckpointError(
            f"{source} has no usable tokenizer ({why}): download or save its files again."
        ) from error


def _nearest_config(source: Path, checkpoint: Path) -> Path | None:
    """Return the folder whose config.json applies: the tokenizer's, or else the model's."""
    return next((path for path in (source, checkpoint) if (path / CONFIG_FILE).is_file()), None)


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of Transformers 5 in the form of Transformers 4.

    Transformers 5 saves the list of additional special tokens under another name.
    """
    extra = settings.get("extra_special_tokens")
    if not isinstance(extra, list):
        return {}
    return {"extra_special_tokens": {}, **({"additional_special_tokens": extra} if extra else {})}


def _missing_files(source: Path, name: str | None, config: dict[str, Any]) -> list[str]:
    """Return the files that the tokenizer's class needs and ``source`` does not have."""
    if name is None:
        name = (TOKENIZER_MAPPING_NAMES.get(str(config.get("model_type"))) or (None,))[0]
    known = None if name is None else tokenizer_class_from_name(name)
    files = set(getattr(known, "vocab_files_names", {}).values()) - OPTIONAL_FILES
    return sorted(file for file in files if not (source / file).is_file())


def _chat(tokenizer: Any) -> ChatFormat | None:
    """Return the chat template; of several, the default one. None if there is none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if template is None:
        return None
    names = {
        name: str(token)
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    return ChatFormat(template=template, special_tokens=names)


def _languages(tokenizer: Any) -> Languages | None:
    """Return the languages of a multilingual tokenizer; None for others."""
    if not hasattr(tokenizer, "set_src_lang_special_tokens"):
        return None
    ids = getattr(tokenizer, "lang_code_to_id", None)
    if ids is None:  # NLLB
        codes = tokenizer.additional_special_tokens
        ids = dict(zip(codes, tokenizer.convert_tokens_to_ids(codes), strict=True))
    return Languages(
        ids={str(code): int(token) for code, token in ids.items()},
        place="prefix" if tokenizer.prefix_tokens else "suffix",
        end=tokenizer.eos_token_id,
        source=tokenizer.src_lang,
        target=tokenizer.tgt_lang,
    )


def _fixed_languages(tokenizer: Any) -> FixedLanguages | None:
    """Return the languages of a Marian tokenizer; None for others."""
    if not isinstance(tokenizer, MarianTokenizer):
        return None
    named = {"source": tokenizer.source_lang, "target": tokenizer.target_lang}
    return FixedLanguages(
        **{side: code if is_one_language(code) else None for side, code in named.items()},
        target_tokens={
            token: tokenizer.encoder[token] for token in tokenizer.supported_language_codes
        },
        end=tokenizer.eos_token_id,
    )


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
