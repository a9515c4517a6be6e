"""The special tokens that a tokenizer puts around a text, such as the token for its language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..bundle.manifest import Languages, Side
from ..errors import OptionError, nearest


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

    languages: Languages
    source: SpecialTokens
    target: SpecialTokens | None  # None: no target language was chosen

    @classmethod
    def of(cls, languages: Languages, source: str, target: str | None) -> LanguagePair:
        """Return the special tokens for two languages; ``OptionError`` for an unknown language."""
        around = _around(languages, source)
        return cls(languages, around, None if target is None else _around(languages, target))

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
    token = language_id(languages, code)
    if languages.place == "prefix":
        return SpecialTokens((token,), (languages.end,))
    return SpecialTokens((), (languages.end, token))


def language_id(languages: Languages, code: str) -> int:
    """Return the token id of the language ``code``; raise ``OptionError`` if it is unknown."""
    given: Any = code  # callers without type checks may pass anything
    token = languages.ids.get(given) if isinstance(given, str) else None
    if token is None:
        close = nearest(str(code), languages.ids)
        hint = f"did you mean {close!r}?" if close else f"its codes are like {languages.source!r}."
        raise OptionError(f"The model has no language {code!r:.60}: {hint}")
    return token


def without_first_tokens(ids: list[int], fragment: Sequence[int]) -> list[int]:
    """Return ``ids`` from ``fragment`` on, without the special tokens before it."""
    size = len(fragment)
    return next(ids[i:] for i in range(len(ids)) if ids[i : i + size] == list(fragment))
