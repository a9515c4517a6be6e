"""ByT5's tokenizer: UTF-8 bytes are the tokens, so that there is no file to read.

Source: ``ByT5Tokenizer`` of Transformers 4.57. Three special tokens come first, then the 256 bytes,
then the sentinels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..bundle.manifest import Side
from ..errors import PromptError
from .tokenizer import clean_up

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2
END_OF_TEXT = 1
FIRST_BYTE = len(SPECIAL_TOKENS)
FIRST_SENTINEL = FIRST_BYTE + 256


def sentinel(number: int) -> str:
    """The text of the sentinel ``number``, whose id is ``FIRST_SENTINEL + number``."""
    return f"<extra_id_{number}>"


class ByteTokenizer:
    """Text to ids and back; ``sentinels``: how many of them there are, 125 as a rule.

    Special tokens written out in a text are those tokens. ``special_tokens_strip``: the first three
    take the whitespace around them with them.
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

    def encode(self, text: str, *, max_length: int | None = None) -> list[int]:
        """The ids of ``text``, closed by the end-of-text token unless it ends with it already.

        ``max_length``: how many they may be; the text is cut off at ``truncation_side``. Raises
        ``PromptError`` if ``text`` is not a string of whole Unicode characters.
        """
        if not isinstance(text, str):
            raise PromptError(f"Text to encode must be a str, not {text!r:.60}.")
        *pieces, last = self._special.split(text)  # text, token, text, token, ..., text
        ids: list[int] = []
        strips = False
        for piece, token in zip(pieces[::2], pieces[1::2], strict=True):
            rest = piece.lstrip() if strips else piece
            strips = token in self._stripping
            ids += _byte_ids(rest.rstrip() if strips else rest)
            ids.append(self._ids[token])
        ids += _byte_ids(last.lstrip() if strips else last)
        if ids and ids[-1] == END_OF_TEXT:
            ids.pop()
        if max_length is not None and len(ids) >= max_length:
            room = max(0, max_length - 1)
            ids = ids[:room] if self._truncation_side == "right" else ids[len(ids) - room :]
        return [*ids, END_OF_TEXT]

    def decode(
        self, ids: Sequence[int], *, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of ``ids`` without special tokens and bytes that are no UTF-8.

        Equal to Transformers' ``decode(ids, skip_special_tokens=True)``. None: as the checkpoint
        says.
        """
        data = bytes(token - FIRST_BYTE for token in ids if is_byte(token))
        text = data.decode("utf-8", errors="ignore")
        cleans = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces is not None:
            cleans = clean_up_tokenization_spaces
        return clean_up(text) if cleans else text

    def token(self, token_id: int) -> str | None:
        """The character whose number is the byte of ``token_id``; None where ``decode`` leaves it
        out.
        """
        return chr(token_id - FIRST_BYTE) if is_byte(token_id) else None


def is_byte(token: int) -> bool:
    """Whether a token id stands for a byte."""
    return FIRST_BYTE <= token < FIRST_SENTINEL


def _byte_ids(text: str) -> list[int]:
    try:
        return [byte + FIRST_BYTE for byte in text.encode()]
    except UnicodeEncodeError as error:
        raise PromptError(
            f"Text to encode must be a str without lone surrogates, not {text!r:.60}; decode its "
            "bytes with errors='replace' first."
        ) from error
