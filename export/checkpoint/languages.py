"""The names of a checkpoint's languages: English and own names, and ISO 639 codes.

The names come from the Unicode CLDR and IANA's registry, through ``langcodes``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache

import langcodes
from language_data.names import load_trie
from language_data.util import data_filename

from ...runtime.bundle.manifest import LanguageNames
from ...runtime.text.languages import plain_name

# Codes of M2M100 and NLLB that langcodes does not know, or takes for another language.
SUBTAGS = {"ns": "nso", "tgl": "tl"}
NOT_NORMALIZED = {"tl", "prs"}  # langcodes would make them Filipino and Persian
# Languages whose names also stand for these, if the model has no code of their own. langcodes knows
# others, such as "ar" for "arb".
ALSO = {
    "dik": "din",
    "fa": "pes",
    "fuv": "ff",
    "nb": "no",
    "no": "nb",
    "pbt": "ps",
    "quy": "qu",
    "tl": "fil",
    "zh": "cmn",
}
SCRIPT_REGIONS = {"Hans": ("CN", "SG"), "Hant": ("TW", "HK", "MO")}
NOTES = (" individual language", " macrolanguage")  # in names of ISO 639
LATIN_END = "\u0250"  # CLDR has English names in other scripts too


def language_names(codes: Iterable[str]) -> dict[str, LanguageNames]:
    """Return the names of each code that is known, such as "fra_Latn", "fr_XX" or ">>fra<<".

    A name of several codes, such as "Chinese" of "zho_Hans" and "zho_Hant", is a name of each; but
    if one of them has no script or region, it is a name of this one alone.
    """
    known = {code: found for code in codes if (found := _language(code)) is not None}
    groups: dict[str, list[str]] = defaultdict(list)
    for code, language in known.items():
        groups[str(language.language)].append(code)
    aliases: dict[str, set[str]] = {code: _tags(language) for code, language in known.items()}
    for subtag, group in groups.items():
        for code in _main(group, known):
            aliases[code] |= _names(subtag)
    taken = set().union(*aliases.values())
    for subtag, group in groups.items():
        other = ALSO.get(subtag) or known[group[0]].prefer_macrolanguage().language
        for code in _main(group, known):
            aliases[code] |= _names(str(other)) - taken
    names = {
        code: _display_name(language, alone=len(groups[str(language.language)]) == 1)
        for code, language in known.items()
    }
    shown = set(map(plain_name, names.values()))  # which no other code has as an alias
    return {
        code: LanguageNames(name=name, aliases=tuple(sorted(aliases[code] - shown)))
        for code, name in names.items()
    }


def is_one_language(code: str | None) -> bool:
    """Return whether a code is known, and is not that of a family such as "roa" (Romance)."""
    language = None if code is None else _language(code)
    return language is not None and not language.language_name().endswith("languages")


def _language(code: str) -> langcodes.Language | None:
    """Return the language of a code; None if it is unknown."""
    first, *rest = code.removeprefix(">>").removesuffix("<<").removesuffix("_XX").split("_")
    first = SUBTAGS.get(first, first)
    try:
        language = langcodes.get("-".join([first, *rest]), normalize=first not in NOT_NORMALIZED)
    except (ValueError, LookupError):  # not a tag, or not in the registry
        return None
    return language if language.is_valid() and language.language is not None else None


def _main(group: list[str], known: Mapping[str, langcodes.Language]) -> list[str]:
    """Return the codes of one language that its name stands for."""
    plain = [code for code in group if not (known[code].script or known[code].territory)]
    return plain or group


def _tags(language: langcodes.Language) -> set[str]:
    """Return the tags of a language with a script or a region, such as "zh-Hans" and "zh-CN"."""
    parts = [*filter(None, [language.script]), *filter(None, [language.territory])]
    if not parts:
        return set()
    endings = ["-".join(parts), *SCRIPT_REGIONS.get(str(language.script), ())]
    found = {plain_name(f"{code}-{end}") for code in _iso(language) for end in endings}
    return found | {plain_name(language.display_name())}


def _iso(language: langcodes.Language) -> set[str]:
    """Return the codes of ISO 639: of one, two (T and B) and three."""
    try:
        variants = {language.to_alpha3(), language.to_alpha3(variant="B")}
    except LookupError:
        variants = set()
    return {str(language.language), *variants}


@cache
def _names(subtag: str) -> frozenset[str]:
    """Return the ISO codes, the English names and the own name of a language."""
    language = langcodes.Language.make(language=subtag)
    names = {*_iso(language), *_english_names().get(subtag, ()), language.autonym()}
    return frozenset(map(plain_name, names)) - {""}


@cache
def _english_names() -> Mapping[str, list[str]]:
    """Return the English names of each language subtag."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, subtag in load_trie(data_filename("trie/en/name_to_language.marisa")).items():
        if max(name) < LATIN_END and not name.endswith(NOTES):
            found[subtag.decode()].append(name)
    return found


def _display_name(language: langcodes.Language, *, alone: bool) -> str:
    name: str = language.language_name() if alone else language.display_name()
    return name.replace(" (individual language)", "")
