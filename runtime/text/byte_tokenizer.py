"""ByT5's tokenizer: its tokens are UTF-8 bytes, so it needs no file.

The ids are three special tokens, then the 256 bytes, then the sentinels. Source: ``ByT5Tokenizer``
of Transformers 4.57.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..bundle.manifest import Side
from ..errors import PromptError
from .tokenizer import Tokenizer, clean_up

if TYPE_CHECKING:  # late: most bundles have another tokenizer
    from .sentencepiece_tokenizer import SentencePieceTokenizer

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2
END_OF_TEXT = 1
FIRST_BYTE = len(SPECIAL_TOKENS)
FIRST_SENTINEL = FIRST_BYTE + 256


def sentinel(number: int) -> str:
    """Return the text of the sentinel ``number``, whose id is ``FIRST_SENTINEL + number``."""
    return f"<extra_id_{number}>"


class ByteTokenizer:
    """ByT5's tokenizer with a number of ``sentinels``, usually 125.

    A special token in a text, such as "</s>", is encoded as that token.
    ``clean_up_tokenization_spaces``: whether ``decode`` removes the spaces before punctuation.
    ``special_tokens_strip``: whether the three ``SPECIAL_TOKENS`` strip the whitespace around them.
    ``truncation_side``: the side that ``encode`` cuts off.
    """

    def __init__(
        self,
        sentinels: int,
        clean_up_tokenization_spaces: bool,
        *,
        special_tokens_strip: bool = True,
        truncation_side: Side = "right",
    ) -> None:
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self._truncation_side = truncation_side
        self._ids = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
        self._ids |= {sentinel(number): FIRST_SENTINEL + number for number in range(sentinels)}
        self._stripping = frozenset(SPECIAL_TOKENS if special_tokens_strip else ())
        self._special = re.compile(f"({'|'.join(map(re.escape, self._ids))})")

    def encode(
        self, text: str, *, max_length: int | None = None, add_special_tokens: bool = True
    ) -> list[int]:
        """Return the token ids of ``text``, with the end-of-text token at the end.

        It is not added to a text that ends with it. ``max_length``: the limit of ids; the text is
        cut off at ``truncation_side``. ``add_special_tokens``: whether to add the end-of-text
        token. Raises ``PromptError`` unless ``text`` is a string without lone surrogates.
        """
        ids = self._fragment(text)
        if not add_special_tokens:
            return ids
        if ids and ids[-1] == END_OF_TEXT:
            ids.pop()
        if max_length is not None and len(ids) >= max_length:
            room = max(0, max_length - 1)
            ids = ids[:room] if self._truncation_side == "right" else ids[len(ids) - room :]
        return [*ids, END_OF_TEXT]

    def encode_target(self, text: str) -> list[int]:
        """Return the token ids of a target, which are encoded as any text."""
        return self.encode(text)

    def encode_continuation(self, text: str) -> list[int]:
        """Return the token ids of ``text``; ByT5 has no special tokens before a text."""
        return self.encode(text)

    def _fragment(self, text: str) -> list[int]:
        """Return the token ids of ``text`` without special tokens."""
        if not isinstance(text, str):
            raise PromptError(f"The text is {text!r:.60}; it must be a string.")
        *pieces, last = self._special.split(text)  # text, token, text, token, ..., text
        ids: list[int] = []
        strips = False
        for piece, token in zip(pieces[::2], pieces[1::2], strict=True):
            rest = piece.lstrip() if strips else piece
            strips = token in self._stripping
            ids += _byte_ids(rest.rstrip() if strips else rest)
            ids.append(self._ids[token])
        ids += _byte_ids(last.lstrip() if strips else last)
        return ids

    def decode(
        self, ids: Sequence[int], *, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Return the text of ``ids``, without special tokens and invalid UTF-8.

        The text equals Transformers' ``decode(ids, skip_special_tokens=True)``.
        ``clean_up_tokenization_spaces``: whether to remove the spaces before punctuation; None for
        the checkpoint's setting.
        """
        data = bytes(token - FIRST_BYTE for token in ids if is_byte(token))
        text = data.decode("utf-8", errors="ignore")
        cleans = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces is not None:
            cleans = clean_up_tokenization_spaces
        return clean_up(text) if cleans else text

    def token(self, token_id: int) -> str | None:
        """Return the character whose code point is the byte of ``token_id``.

        Return None if ``decode`` ignores the id.
        """
        return chr(token_id - FIRST_BYTE) if is_byte(token_id) else None

    def special_token(self, token_id: int) -> str | None:
        """Return the name of a special token, which ``decode`` ignores; None for other ids."""
        return next((token for token, number in self._ids.items() if number == token_id), None)


def is_byte(token: int) -> bool:
    """Return whether a token id is a byte."""
    return FIRST_BYTE <= token < FIRST_SENTINEL


def _byte_ids(text: str) -> list[int]:
    try:
        return [byte + FIRST_BYTE for byte in text.encode()]
    except UnicodeEncodeError as error:
        raise PromptError(
            f"The text is {text!r:.60}; it must be a string without lone surrogates: decode its "
            "bytes with errors='replace'."
        ) from error


AnyTokenizer: TypeAlias = "Tokenizer | ByteTokenizer | SentencePieceTokenizer"
