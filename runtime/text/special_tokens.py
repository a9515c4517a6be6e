"""The special tokens that a tokenizer puts around a text, such as the token for its language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ..bundle.manifest import LanguageNames, Languages, Side, TokenizerFormat
from ..errors import OptionError
from .languages import find_language


class TextEncoder(Protocol):
    """A tokenizer that encodes a text with and without its special tokens."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


class SpecialTokens(NamedTuple):
    """The special tokens before and after a text."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def around(
        self, ids: Sequence[int], max_length: int | None = None, side: Side = "right"
    ) -> list[int]:
        """Return ``ids`` with the special tokens.

        ``max_length``: the limit of ids; ``ids`` are cut off at ``side`` and special tokens stay,
        as with Transformers' ``truncation=True``.
        """
        if max_length is not None:
            room = max(0, max_length - len(self.before) - len(self.after))
            ids = ids[:room] if side == "right" else ids[max(0, len(ids) - room) :]
        return [*self.before, *ids, *self.after]


class LanguagePair(NamedTuple):
    """The special tokens of sources and targets with the chosen languages."""

    source: SpecialTokens
    target: SpecialTokens | None  # None: no target language was chosen

    @classmethod
    def of(cls, languages: Languages, source: str, target: str | None) -> LanguagePair:
        """Return the special tokens for two codes; ``OptionError`` for an unknown language."""
        around = _around(languages, source)
        return cls(around, None if target is None else _around(languages, target))

    @property
    def known_target(self) -> SpecialTokens:
        """The special tokens of targets; ``OptionError`` if no target language was chosen."""
        if self.target is None:
            raise OptionError(
                "The model has several target languages: choose one, as in "
                "model.with_languages(source, target)."
            )
        return self.target


def _around(languages: Languages, code: str) -> SpecialTokens:
    token = languages.ids[find_language(code, languages.ids)]
    if languages.place == "prefix":
        return SpecialTokens((token,), (languages.end,))
    return SpecialTokens((), (languages.end, token))


class Chosen(NamedTuple):
    """The effect of a choice of languages."""

    tokens: LanguagePair | None  # None: the tokenizer's special tokens do not change
    first_token: int | None  # forced first token of the output; None: as in the bundle


def choose_languages(
    form: TokenizerFormat,
    names: Mapping[str, LanguageNames] | None,
    source: str | None,
    target: str | None,
) -> Chosen:
    """Return the effect of choosing two languages, given by names or codes.

    None stands for the checkpoint's default. Raises ``OptionError`` for a language that the model
    does not have, and for a tokenizer without languages.
    """
    if (languages := form.languages) is not None:
        codes = [
            None if given is None else find_language(given, languages.ids, names)
            for given in (source, target)
        ]
        pair = LanguagePair.of(languages, codes[0] or languages.source, codes[1])
        return Chosen(pair, None if codes[1] is None else languages.ids[codes[1]])
    fixed = form.fixed_languages
    if fixed is None:
        raise OptionError(
            "source and target have no effect, because the model's tokenizer has no languages: "
            "use generate or translate."
        )
    _check_fixed("source", source, fixed.source, names)
    if not fixed.target_tokens:
        _check_fixed("target", target, fixed.target, names)
    if target is None or not fixed.target_tokens:
        return Chosen(None, None)
    code = find_language(target, fixed.target_tokens, names, side="target")
    token = fixed.target_tokens[code]
    ends = SpecialTokens((), (fixed.end,))
    return Chosen(LanguagePair(SpecialTokens((token,), ends.after), ends), None)


def _check_fixed(
    side: str, given: str | None, code: str | None, names: Mapping[str, LanguageNames] | None
) -> None:
    """Raise ``OptionError`` for a language that is not the only one of a Marian model."""
    if given is None:
        return
    if code is None:
        raise OptionError(
            f"The checkpoint does not say which {side} languages it has: leave out the {side} "
            "language."
        )
    find_language(given, [code], names, side=side)


PROBES = ("a", "A", "1", ".", "的")  # a vocabulary may lack most characters


def special_tokens_of(tokenizer: TextEncoder) -> SpecialTokens:
    """Return the special tokens that a tokenizer puts around each text."""
    for probe in PROBES:
        if fragment := tokenizer.encode(probe, add_special_tokens=False):
            whole = tokenizer.encode(probe)
            after = without_first_tokens(whole, fragment)[len(fragment) :]
            before = whole[: len(whole) - len(fragment) - len(after)]
            return SpecialTokens(tuple(before), tuple(after))
    return SpecialTokens((), ())


def without_first_tokens(ids: list[int], fragment: Sequence[int]) -> list[int]:
    """Return ``ids`` from ``fragment`` on, without the special tokens before it."""
    size = len(fragment)
    return next(ids[i:] for i in range(len(ids)) if ids[i : i + size] == list(fragment))
