"""Text to token ids and back, with the same results as the checkpoint's Transformers tokenizer.

The ``tokenizers`` package does the work, with the bundle's tokenizer.json. This module does not
depend on models or generation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Final, Self

import tokenizers
from tokenizers.decoders import Decoder

from ..bundle.manifest import Side
from ..errors import BundleError, PromptError, reason
from .special_tokens import LanguagePair, without_first_tokens

LONG_CHARS: Final = 10_000  # shorter texts take a few milliseconds
# Each replacement is applied to the whole text, in this order. Source:
# `PreTrainedTokenizerBase.clean_up_tokenization` in Transformers 4.57.
CLEAN_UPS: Final = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up(text: str) -> str:
    """Return ``text`` without the spaces that English tokenization adds before punctuation."""
    for old, new in CLEAN_UPS:
        text = text.replace(old, new)
    return text


def _failure(what: str, error: Exception) -> BundleError:
    return BundleError(
        f"The bundle's tokenizer cannot {what} ({reason(error)}): check the bundle with `edgeseq "
        "info BUNDLE --verify`, or export the checkpoint again."
    )


class Tokenizer:
    """The tokenizer of one bundle.

    ``path``: its tokenizer.json. ``clean_up_tokenization_spaces``: the checkpoint's setting of that
    name: whether ``decode`` removes the spaces before punctuation. ``truncation_side``: the side
    that ``encode`` cuts off. ``languages``: the languages of a multilingual tokenizer. Raises
    ``BundleError`` if ``tokenizers`` cannot read ``path``.
    """

    def __init__(
        self,
        path: Path,
        clean_up_tokenization_spaces: bool,
        *,
        truncation_side: Side = "right",
        languages: LanguagePair | None = None,
    ) -> None:
        try:  # not `from_file`, which does not take every path
            self._backend = tokenizers.Tokenizer.from_buffer(path.read_bytes())
        except Exception as error:  # the only class that tokenizers raises here
            raise BundleError(
                f"{path} cannot be read as a tokenizer ({reason(error)}): restore the file, or "
                "export the checkpoint again."
            ) from error
        # Transformers ignores the file's settings of both, so that the caller decides.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.languages = languages
        self._truncation_side = truncation_side
        added = self._backend.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)

    @property
    def decoder(self) -> Decoder | None:
        """The decoder that turns token strings into text; None: they are joined with spaces."""
        decoder: Decoder | None = self._backend.decoder
        return decoder

    def with_languages(self, languages: LanguagePair) -> Self:
        """Return the same tokenizer for other languages."""
        twin = copy(self)
        twin.languages = languages
        return twin

    def encode(
        self, text: str, *, max_length: int | None = None, add_special_tokens: bool = True
    ) -> list[int]:
        """Return the token ids of ``text``, with the special tokens that ``tokenizer(text)`` adds.

        ``max_length``: the limit of ids; the text is cut off at ``truncation_side`` and special
        tokens stay, as with Transformers' ``truncation=True``. ``add_special_tokens``: whether to
        add special tokens. Raises ``PromptError`` unless ``text`` is a string without lone
        surrogates.
        """
        encoding = self._fragment(text)
        if self.languages is not None and add_special_tokens:
            return self.languages.source.around(encoding.ids, max_length, self._truncation_side)
        if add_special_tokens and max_length is not None:
            room = max(0, max_length - self._backend.num_special_tokens_to_add(False))
            encoding.truncate(room, direction=self._truncation_side)
        if add_special_tokens:
            encoding = self._backend.post_process(encoding)
        ids: list[int] = encoding.ids
        return ids

    def encode_target(self, text: str) -> list[int]:
        """Return the token ids of a target, as ``tokenizer(text_target=text)`` does.

        Raises ``OptionError`` if the tokenizer has languages and no target language is chosen.
        """
        if self.languages is None:
            return self.encode(text)
        return self.languages.known_target.around(self._fragment(text).ids)

    def encode_continuation(self, text: str) -> list[int]:
        """Return the token ids of ``text`` without the special tokens before it."""
        return without_first_tokens(self.encode(text), self._fragment(text).ids)

    def _fragment(self, text: str) -> Any:
        """Return the encoding of ``text`` without special tokens."""
        try:
            is_in_one_thread = os.environ.get("TOKENIZERS_PARALLELISM") == "false"
            if len(text) > LONG_CHARS and is_in_one_thread:
                # A batch is encoded without Python's GIL, so that other threads go on meanwhile.
                # Without this setting, it would start a thread pool.
                return self._backend.encode_batch([text], add_special_tokens=False)[0]
            return self._backend.encode(text, add_special_tokens=False)
        except TypeError as error:
            raise PromptError(
                f"The text is {text!r:.60}; it must be a string without lone surrogates: decode "
                "its bytes with errors='replace'."
            ) from error
        except Exception as error:  # the only class that tokenizers raises here
            raise _failure("encode", error) from error

    def decode(
        self, ids: Sequence[int], *, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Return the text of ``ids``, without special tokens and ids outside the vocabulary.

        The text equals Transformers' ``decode(ids, skip_special_tokens=True)``.
        ``clean_up_tokenization_spaces``: whether to remove the spaces before punctuation; None for
        the checkpoint's setting.
        """
        try:
            text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        except (OverflowError, TypeError):  # the caller's ids are no ids
            raise
        except Exception as error:  # the only class that tokenizers raises here
            raise _failure("decode", error) from error
        cleans = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces is not None:
            cleans = clean_up_tokenization_spaces
        return clean_up(text) if cleans else text

    def token(self, token_id: int) -> str | None:
        """Return the vocabulary's string for ``token_id``; None if ``decode`` ignores the id."""
        token: str | None = self._backend.id_to_token(token_id)
        return None if token in self._special else token

    def special_token(self, token_id: int) -> str | None:
        """Return the name of a special token, which ``decode`` ignores; None for other ids."""
        token: str | None = self._backend.id_to_token(token_id)
        return token if token in self._special else None
