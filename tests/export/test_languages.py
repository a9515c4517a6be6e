"""The names of languages in a bundle, and what a caller may write for a code."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART50
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB

from edgeseq.export.checkpoint.languages import is_one_language, language_names
from edgeseq.runtime import OptionError
from edgeseq.runtime.text.languages import find_language
from tests.support.errors import VALUE, refusal

MARIAN = [">>fra<<", ">>cmn<<", ">>cmn_Hans<<", ">>pt<<", ">>pt_br<<", ">>iloko<<"]
CODES: dict[str, list[str]] = {
    "nllb": NLLB,
    "m2m100": M2M100["m2m100"],
    "mbart50": MBART50,
    "marian": MARIAN,
    "t5": ["en", "de", "fr", "ro"],
}
NAMES = {kind: language_names(codes) for kind, codes in CODES.items()}


def code_of(kind: str, given: Any) -> str:
    return find_language(given, CODES[kind], NAMES[kind])


@pytest.mark.parametrize("kind", CODES)
def test_every_code_stands_for_itself_and_has_a_name(kind: str) -> None:
    for code in CODES[kind]:
        assert code_of(kind, code) == code
        assert code_of(kind, code.lower()) == code
    assert set(CODES[kind]) - set(NAMES[kind]) == ({">>iloko<<"} if kind == "marian" else set())
    for code, names in NAMES[kind].items():
        assert code_of(kind, names.name) == code


@pytest.mark.parametrize(
    "given", ["French", "french", " FRENCH ", "fr", "fra", "fre", "fr-FR", "fr_CA", "français"]
)
def test_one_language_in_many_forms(given: str) -> None:
    assert [code_of(kind, given) for kind in CODES] == ["fra_Latn", "fr", "fr_XX", ">>fra<<", "fr"]


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        ("German", {"nllb": "deu_Latn", "m2m100": "de", "mbart50": "de_DE", "t5": "de"}),
        ("ger", {"nllb": "deu_Latn", "m2m100": "de", "mbart50": "de_DE", "t5": "de"}),
        ("Deutsch", {"nllb": "deu_Latn", "m2m100": "de", "mbart50": "de_DE", "t5": "de"}),
        ("Arabic", {"nllb": "arb_Arab", "m2m100": "ar", "mbart50": "ar_AR"}),
        ("Egyptian Arabic", {"nllb": "arz_Arab"}),
        ("Bengali", {"nllb": "ben_Beng", "m2m100": "bn", "mbart50": "bn_IN"}),
        ("Persian", {"nllb": "pes_Arab", "m2m100": "fa", "mbart50": "fa_IR"}),
        ("Farsi", {"nllb": "pes_Arab", "m2m100": "fa", "mbart50": "fa_IR"}),
        ("Tagalog", {"nllb": "tgl_Latn", "m2m100": "tl", "mbart50": "tl_XX"}),
        ("Filipino", {"nllb": "tgl_Latn", "m2m100": "tl", "mbart50": "tl_XX"}),
        ("Norwegian", {"nllb": "nob_Latn", "m2m100": "no"}),
        ("Nynorsk", {"nllb": "nno_Latn"}),
        ("Northern Sotho", {"nllb": "nso_Latn", "m2m100": "ns"}),
        ("Chinese", {"m2m100": "zh", "mbart50": "zh_CN", "marian": ">>cmn<<"}),
        ("Mandarin", {"m2m100": "zh", "mbart50": "zh_CN", "marian": ">>cmn<<"}),
        ("Chinese (Traditional)", {"nllb": "zho_Hant"}),
        ("chinese simplified", {"nllb": "zho_Hans"}),
        ("zh-TW", {"nllb": "zho_Hant", "mbart50": "zh_CN"}),
        ("zh-Hans", {"nllb": "zho_Hans"}),
        ("Portuguese", {"marian": ">>pt<<", "mbart50": "pt_XX"}),
        ("pt-BR", {"marian": ">>pt_br<<", "nllb": "por_Latn"}),
        ("pt-PT", {"marian": ">>pt<<"}),
        ("cmn_Hans", {"marian": ">>cmn_Hans<<"}),
        ("__fr__", {"m2m100": "fr"}),
    ],
)
def test_names_and_codes(given: str, codes: dict[str, str]) -> None:
    assert {kind: code_of(kind, given) for kind in codes} == codes


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("nllb", "Frensh", r"no language 'Frensh': did you mean fra_Latn \(French\)\?"),
        ("nllb", "deu_Lat", r"no language 'deu_Lat': did you mean deu_Latn \(German\)\?"),
        ("nllb", "Klingon", r"edgeseq info lists its languages, such as ace_Arab"),
        ("t5", "Klingon", r"'Klingon': it has en \(English\), de \(German\), fr \(French\), ro"),
        (
            "nllb",
            "Chinese",
            r"'Chinese' has several codes: choose zho_Hans \(Chinese, Simplified\) or zho_Hant",
        ),
        ("nllb", None, "A language is None; it must be a string"),
        ("m2m100", "", "no language ''"),
    ],
)
def test_errors_name_the_nearest(kind: str, given: Any, message: str) -> None:
    refusal(OptionError, lambda: code_of(kind, given), match=message, ending=VALUE)


def test_without_names_only_codes_are_known() -> None:
    assert find_language("FRA_latn", NLLB) == "fra_Latn"
    refusal(OptionError, lambda: find_language("French", NLLB), match="no language", ending=VALUE)


def test_families_of_languages_are_not_one_language() -> None:
    assert [is_one_language(code) for code in ("en", "deu", "zh", "pt_br")] == [True] * 4
    unknown = ("roa", "mul", "ROMANCE", "tc-big", None)
    assert [is_one_language(code) for code in unknown] == [False] * len(unknown)
