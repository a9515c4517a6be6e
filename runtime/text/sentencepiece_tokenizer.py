"""SentencePiece models beside a vocabulary of their own: the tokenizers of Marian and M2M100.

SentencePiece cuts a text into pieces, and the vocabulary gives each piece its id. Marian has two
models, for sources and for targets. Sources: ``MarianTokenizer`` and ``M2M100Tokenizer`` of
Transformers 4.57; ``normalizer.cc`` and ``unigram_model.cc`` of SentencePiece 0.2.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from struct import Struct
from typing import Any, Final, Self

import numpy as np
import tokenizers
from tokenizers import models

from ..bundle.manifest import Side
from ..errors import BundleError, PromptError, reason
from .special_tokens import LanguagePair, SpecialTokens, without_first_tokens
from .tokenizer import clean_up

SPACE: Final = "\u2581"  # the character for a space in pieces
UNKNOWN_PENALTY: Final = 10.0  # an unknown character scores that much less than any piece
LARGEST_SCORE: Final = 1e30  # sums of scores stay finite in single precision
FLOAT32: Final = Struct("<f")
UNKNOWN: Final = " "  # no piece has this name, because pieces have no space

Cut = Callable[[str], list[str]]


class SentencePieceTokenizer:
    """The tokenizer of one bundle.

    ``path``: its sentencepiece.json. The other arguments are as for ``Tokenizer``. Raises
    ``BundleError`` if ``path`` cannot be read.
    """

    def __init__(
        self,
        path: Path,
        clean_up_tokenization_spaces: bool,
        *,
        truncation_side: Side = "right",
        languages: LanguagePair | None = None,
    ) -> None:
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.languages = languages
        self._truncation_side = truncation_side
        try:
            content = json.loads(path.read_bytes())
            _check(content)
            self._read(content)
        except Exception as error:  # `tokenizers` raises only this class
            raise BundleError(
                f"{path} cannot be read as a tokenizer ({reason(error)}): restore the file, or "
                "export the checkpoint again."
            ) from error

    def _read(self, content: Mapping[str, Any]) -> None:
        self._ids: dict[str, int] = content["vocabulary"]
        self._target_ids: dict[str, int] = content["target_vocabulary"] or self._ids
        self._source = SentencePieceModel(content["source"])
        target = content["target"]
        self._target = self._source if target is None else SentencePieceModel(target)
        self._added: dict[str, dict[str, Any]] = content["added_tokens"]
        self._split = re.compile(f"({'|'.join(map(re.escape, content['added_tokens']))})")
        self._unknown: str = content["unknown"]
        self._has_codes: bool = content["language_codes"]
        self._ends = SpecialTokens((), (content["end"],))
        silent = {*self._added, *content["silent"]}
        self._tokens = {
            number: token for token, number in self._target_ids.items() if token not in silent
        }
        for token in self._added.values():
            self._tokens.pop(token["id"], None)

    def with_languages(self, languages: LanguagePair) -> Self:
        """Return the same tokenizer for other languages."""
        twin = copy(self)
        twin.languages = languages
        return twin

    def encode(
        self, text: str, *, max_length: int | None = None, add_special_tokens: bool = True
    ) -> list[int]:
        """Return the token ids of a source, with the special tokens that ``tokenizer(text)`` adds.

        The arguments and errors are as for ``Tokenizer.encode``.
        """
        ids = self._fragment(text, self._source, self._ids)
        if not add_special_tokens:
            return ids
        around = self._ends if self.languages is None else self.languages.source
        return around.around(ids, max_length, self._truncation_side)

    def encode_target(self, text: str) -> list[int]:
        """Return the token ids of a target, as ``tokenizer(text_target=text)`` does.

        Raises ``OptionError`` if the tokenizer has languages and no target language is chosen.
        """
        around = self._ends if self.languages is None else self.languages.known_target
        return around.around(self._fragment(text, self._target, self._target_ids))

    def encode_continuation(self, text: str) -> list[int]:
        """Return the token ids of ``text`` without the special tokens before it."""
        return without_first_tokens(self.encode(text), self.encode(text, add_special_tokens=False))

    def decode(
        self, ids: Sequence[int], *, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Return the text of target ids, without special tokens and ids outside the vocabulary.

        The text equals Transformers' ``decode(ids, skip_special_tokens=True)``.
        ``clean_up_tokenization_spaces``: whether to remove the spaces before punctuation; None for
        the checkpoint's setting.
        """
        pieces = "".join(self._tokens.get(number, "") for number in ids)
        text = pieces.replace(SPACE, " ").strip()
        cleans = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces is not None:
            cleans = clean_up_tokenization_spaces
        return clean_up(text) if cleans else text

    def token(self, token_id: int) -> str | None:
        """Return the piece of ``token_id``; None if ``decode`` ignores the id."""
        return self._tokens.get(token_id)

    def special_token(self, token_id: int) -> str | None:
        """Return the name of a special token, which ``decode`` ignores; None for other ids."""
        if token_id in self._tokens:
            return None
        ids = {**self._target_ids, **{name: token["id"] for name, token in self._added.items()}}
        return next((token for token, number in ids.items() if number == token_id), None)

    def _fragment(self, text: str, model: SentencePieceModel, ids: Mapping[str, int]) -> list[int]:
        """Return the token ids of ``text`` without special tokens."""
        if not isinstance(text, str):
            raise PromptError(f"The text is {text!r:.60}; it must be a string.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"The text is {text!r:.60}; it must be a string without lone surrogates: decode "
                "its bytes with errors='replace'."
            ) from error
        found: list[int] = []
        unknown = ids[self._unknown]
        for part in self._parts(text):
            if (added := self._added.get(part)) is not None:
                found.append(added["id"])
                continue
            code, rest = self._language_code(part)
            found += [ids.get(piece, unknown) for piece in (*code, *model.pieces(rest))]
        return found

    def _parts(self, text: str) -> Iterator[str]:
        """Yield the added tokens in ``text`` and the texts between them, which are not empty."""
        parts = self._split.split(text)  # text, token, text, token, ..., text
        for i in range(1, len(parts), 2):
            token = self._added[parts[i]]
            if token["lstrip"]:
                parts[i - 1] = parts[i - 1].rstrip()
            if token["rstrip"]:
                parts[i + 1] = parts[i + 1].lstrip()
        yield from filter(None, parts)

    def _language_code(self, text: str) -> tuple[list[str], str]:
        """Split off Marian's code for the target language, such as ">>fra<<", from a source."""
        if self._has_codes and text.startswith(">>") and (end := text.find("<<")) != -1:
            return [text[: end + 2]], text[end + 2 :]
        return [], text


def _check(content: Mapping[str, Any]) -> None:
    """Raise an error for content with which encoding could fail later."""
    added = content["added_tokens"].values()
    numbers = {content["end"], *(token["id"] for token in added)}
    for vocabulary in (
        content["vocabulary"],
        content["target_vocabulary"] or content["vocabulary"],
    ):
        numbers.add(vocabulary[content["unknown"]])
        numbers.update(vocabulary.values())
    if any(type(number) is not int for number in numbers):
        raise ValueError("an id is no integer")
    if any({"lstrip", "rstrip"} - token.keys() for token in added):
        raise ValueError("an added token lacks its settings")


class SentencePieceModel:
    """A SentencePiece model, from its entry in sentencepiece.json."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._charsmap = Charsmap(b64decode(content["charsmap"]))
        self._dummy_prefix: bool = content["add_dummy_prefix"]
        self._merges_spaces: bool = content["remove_extra_whitespaces"]
        scores: dict[str, float] = content["pieces"]
        if "" in scores or not all(abs(score) < LARGEST_SCORE for score in scores.values()):
            raise ValueError("a piece is empty, or has a score that is no number")
        merges = content["merges"]
        self._cut = _unigram(scores) if merges is None else _bpe(scores, merges)

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of ``text``; a run of unknown characters is one piece."""
        return self._cut(self.normalized(text))

    def normalized(self, text: str) -> str:
        """Return ``text`` as SentencePiece normalizes it, with ``SPACE`` for a space."""
        text = self._charsmap.apply(text)
        if self._merges_spaces:
            text = re.sub(" +", " ", text.lstrip(" "))
        if not text:
            return ""
        text = text.replace(" ", SPACE)
        if self._dummy_prefix:
            text = SPACE + text
        return text.rstrip(SPACE) if self._merges_spaces else text


def _bpe(pieces: Iterable[str], merges: Sequence[Sequence[str]]) -> Cut:
    """Return the function that cuts a text by merging characters."""
    vocabulary = {piece: number for number, piece in enumerate([UNKNOWN, *pieces])}
    pairs = [(left, right) for left, right in merges]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, unk_token=UNKNOWN, fuse_unk=True))

    def cut(text: str) -> list[str]:
        offsets = backend.encode(text, add_special_tokens=False).offsets
        return [text[start:end] for start, end in offsets]

    return cut


def _unigram(scores: Mapping[str, float]) -> Cut:
    """Return the function that cuts a text into the pieces with the highest sum of scores.

    The model of `tokenizers` adds in double precision, and so breaks ties such as "--" and "-" for
    "---" otherwise than SentencePiece.
    """
    unknown = _float32(min(scores.values(), default=0.0) - UNKNOWN_PENALTY)
    longest: dict[str, int] = {}  # by first character
    for piece in scores:
        longest[piece[0]] = max(longest.get(piece[0], 1), len(piece))

    def cut(text: str) -> list[str]:
        size = len(text)
        best: list[float | None] = [0.0] + [None] * size  # score of the best path to each position
        starts = [0] * (size + 1)  # start of that path's last piece; negative if it is unknown
        for start in range(size):
            before = best[start]
            assert before is not None  # every character is a piece or unknown
            last = min(start + longest.get(text[start], 1), size)
            for end in range(start + 1, last + 1):
                score = scores.get(text[start:end])
                if score is None and end > start + 1:
                    continue
                total = _float32(before + (unknown if score is None else score))
                known = best[end]
                if known is None or total > known:
                    best[end] = total
                    starts[end] = ~start if score is None else start
        return _path(text, starts)

    return cut


def _path(text: str, starts: Sequence[int]) -> list[str]:
    """Return the pieces of the best path, with neighbouring unknown characters as one piece."""
    found: list[str] = []
    end = len(text)
    while end:
        stop = end
        while end and starts[end] < 0:
            end = ~starts[end]
        if end == stop:
            end = starts[end]
        found.append(text[end:stop])
    return found[::-1]


def _float32(value: float) -> float:
    """Return ``value`` in single precision, in which SentencePiece adds."""
    return float(FLOAT32.unpack(FLOAT32.pack(value))[0])


class Charsmap:
    """The replacements of characters in a SentencePiece model.

    The bytes are the size of a trie, the trie (a double array of Darts) and the replacements, each
    of which ends with a zero byte.
    """

    def __init__(self, content: bytes) -> None:
        size = int.from_bytes(content[:4], "little")
        self._units: list[int] = np.frombuffer(content[4 : 4 + size], "<u4").tolist()
        self._replacements = content[4 + size :]
        self._check()

    def _check(self) -> None:
        """Raise ``ValueError`` for a trie with which ``apply`` would leave its arrays."""
        units = np.array(self._units, np.int64)
        nodes = np.arange(len(units)) ^ ((units >> 10) << ((units & 0x200) >> 6))
        inner = units >> 31 == 0
        if (nodes[inner] >= len(units)).any() or len(units) % 256:
            raise ValueError("the trie of its replacements is damaged")
        found = units[nodes[inner & (units & 0x100 > 0)]] & 0x7FFFFFFF
        if (found > self._replacements.rfind(0)).any():
            raise ValueError("its replacements are damaged")

    def apply(self, text: str) -> str:
        """Return ``text`` with the longest match at each position replaced."""
        if not self._units:
            return text
        data = text.encode()
        result = bytearray()
        position = 0
        while position < len(data):
            length, value = self._longest(data, position)
            if length:
                end = self._replacements.index(0, value)
                result += self._replacements[value:end]
            else:
                length = _character_length(data[position])
                result += data[position : position + length]
            position += length
        return result.decode(errors="replace")  # a damaged trie may cut characters

    def _longest(self, data: bytes, position: int) -> tuple[int, int]:
        """Return the length of the longest match and its replacement's offset; (0, 0) for none."""
        units, found = self._units, (0, 0)
        node = _offset(units[0])
        for end in range(position, len(data)):
            node ^= data[end]
            unit = units[node]
            if unit & 0x800000FF != data[end]:  # another label, or a leaf
                break
            node ^= _offset(unit)
            if unit & 0x100:  # a match ends here
                found = (end + 1 - position, units[node] & 0x7FFFFFFF)
        return found


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _character_length(first: int) -> int:
    """Return the number of UTF-8 bytes of the character with this first byte."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
