"""Text to token ids and back, with the same results as the checkpoint's Transformers tokenizer.

The ``tokenizers`` package does the work, with the bundle's tokenizer.json. This module does not
depend on models or generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import tokenizers
from tokenizers.decoders import Decoder

from ..bundle.manifest import Side
from ..errors import BundleError, PromptError

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


class Tokenizer:
    """The tokenizer of one bundle.

    ``path``: its tokenizer.json. ``clean_up_tokenization_spaces``: the checkpoint's setting of that
    name: whether ``decode`` removes the spaces before punctuation. ``truncation_side``: the side
    that ``encode`` cuts off. Raises ``BundleError`` if ``tokenizers`` cannot read ``path``.
    """

    def __init__(
        self,
        path: Path,
        clean_up_tokenization_spaces: bool,
        *,
        truncation_side: Side = "right",
    ) -> None:
        try:
            self._backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the only class that tokenizers raises here
            raise BundleError(
                f"{path} cannot be read as a tokenizer ({error}): restore the file, or export the "
                "checkpoint again."
            ) from error
        # Transformers ignores the file's settings of both, so that the caller decides.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self._truncation_side = truncation_side
        added = self._backend.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)

    @property
    def decoder(self) -> Decoder | None:
        """The decoder that turns token strings into text; None: they are joined with spaces."""
        decoder: Decoder | None = self._backend.decoder
        return decoder

    def encode(self, text: str, *, max_length: int | None = None) -> list[int]:
        """Return the token ids of ``text``, with the special tokens that ``tokenizer(text)`` adds.

        ``max_length``: the limit of ids; the text is cut off at ``truncation_side`` and special
        tokens stay, as with Transformers' ``truncation=True``. Raises ``PromptError`` unless
        ``text`` is a string without lone surrogates.
        """
        backend = self._backend
        try:
            if max_length is None:
                ids: list[int] = backend.encode(text).ids
                return ids
            encoding = backend.encode(text, add_special_tokens=False)
        except TypeError as error:
            raise PromptError(
                f"The text is {text!r:.60}; it must be a string without lone surrogates: decode "
                "its bytes with errors='replace'."
            ) from error
        room = max(0, max_length - backend.num_special_tokens_to_add(False))
        encoding.truncate(room, direction=self._truncation_side)
        left: list[int] = backend.post_process(encoding).ids
        return left

    def decode(
        self, ids: Sequence[int], *, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Return the text of ``ids``, without special tokens and ids outside the vocabulary.

        The text equals Transformers' ``decode(ids, skip_special_tokens=True)``.
        ``clean_up_tokenization_spaces``: whether to remove the spaces before punctuation; None for
        the checkpoint's setting.
        """
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        cleans = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces is not None:
            cleans = clean_up_tokenization_spaces
        return clean_up(text) if cleans else text

    def token(self, token_id: int) -> str | None:
        """Return the vocabulary's string for ``token_id``; None if ``decode`` ignores the id."""
        token: str | None = self._backend.id_to_token(token_id)
        return None if token in self._special else token
