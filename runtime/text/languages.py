"""Languages by name: from what a caller writes, such as "French" or "fr", to a model's code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..bundle.manifest import LanguageNames
from ..errors import OptionError, nearest

MOST_LISTED = 8  # most languages that an error lists
TASK = re.compile(r"translation_(.+)_to_(.+)")
REGION = re.compile(r"-(?:[a-z]{2}|[0-9]{3})$")


def plain_name(text: str) -> str:
    """Return a name or code in the form in which they are compared.

    The case, parentheses, and the signs around codes such as ">>fra<<" do not count.
    """
    name = text.casefold().strip("<>_ ").replace("_", "-")
    return " ".join(re.sub("[(),]", " ", name).split())


def find_language(
    given: str,
    codes: Collection[str],
    names: Mapping[str, LanguageNames] | None = None,
    *,
    side: str | None = None,
) -> str:
    """Return the code, one of ``codes``, of a language that is given by its name or a code.

    ``names``: the names of the codes; None if the bundle has none, so that only codes are known. A
    region such as "-FR" is ignored if no code has it. ``side``: "source" or "target", in errors, if
    the codes are of one side only. Raises ``OptionError`` for a language that is
    not there, with the nearest one, and for a name of several codes.
    """
    text: Any = given  # callers without type checks may pass anything
    if not isinstance(text, str):
        raise OptionError(f"A language is {text!r:.60}; it must be a string, such as 'French'.")
    if text in codes:
        return text
    known = _codes_by_name(codes, names or {})
    wanted = plain_name(text)
    found = known.get(wanted) or known.get(REGION.sub("", wanted), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError(
            f"{text!r:.60} has several codes: choose {_listed(found, names, ' or ')}."
        )
    close = nearest(wanted, known)
    if close is not None:
        hint = f"did you mean {_listed(known[close], names, ' or ')}?"
    elif len(codes) <= MOST_LISTED:
        hint = f"it has {_listed(codes, names, ', ')}."
    else:
        hint = f"edgeseq info lists its languages, such as {_listed([*codes][:1], names, '')}."
    kind = "language" if side is None else f"{side} language"
    raise OptionError(f"The model has no {kind} {text!r:.60}: {hint}")


def language_pairs(tasks: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return the task of each pair of languages, such as "translation_en_to_de" of en and de."""
    return {(found[1], found[2]): task for task in tasks if (found := TASK.fullmatch(task))}


def described(code: str, names: Mapping[str, LanguageNames] | None) -> str:
    """Return a code with its English name, if the bundle has it: "fra_Latn (French)"."""
    known = (names or {}).get(code)
    return code if known is None else f"{code} ({known.name.replace(' (', ', ').rstrip(')')})"


def _listed(
    codes: Collection[str], names: Mapping[str, LanguageNames] | None, separator: str
) -> str:
    return separator.join(described(code, names) for code in codes)


def _codes_by_name(
    codes: Collection[str], names: Mapping[str, LanguageNames]
) -> dict[str, list[str]]:
    """Return the codes of each name; a name that is also a code is only that."""
    known = {plain_name(code): [code] for code in codes}
    own = set(known)
    for code in codes:
        of_code = names.get(code)
        if of_code is None:
            continue
        for name in {plain_name(of_code.name), *of_code.aliases} - own:
            known.setdefault(name, []).append(code)
    return known
