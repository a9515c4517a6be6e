"""Splitting a text into sentences, and long sentences into parts, with the layout between them.

The rules need no language. Where they are not sure, they do not split: two sentences in one piece
do less harm than a sentence cut in two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Final

Span = tuple[int, int]  # start and end in the text
Cut = tuple[int, int]  # end of the part before it, start of the part after it

# Full stops that need no space after them: Chinese and Japanese, Devanagari, Urdu, Armenian,
# Ethiopic, Khmer, Burmese, Tibetan.
STRONG: Final = "。！？｡।॥۔։።፧។៕။།"
WEAK: Final = ".!?…؟‼⁇⁈⁉．"
CLOSERS: Final = "\"'”’»›)]}」』）】》〉］｝"
OPENERS: Final = "\"'“‘„‚«‹([{「『（【《〈［｛¿¡-–—"
# The layout between two pieces: a line break, a tab, or at least three spaces.
LAYOUT: Final = re.compile(r"[^\S ]*[\n\r\t\v\f\x1c-\x1e\x85\u2028\u2029]|\s{3}")
# Bullets, numbers, quotation signs and check boxes before the first sentence of a line.
MARKS: Final = re.compile(
    r"(?:(?:[-*•‣▪◦●○■□–—+>#]+|\(?\d{1,3}[.)]|\(?[a-zA-Z]\)|\[[ xX]\])(?:\s+|$))*"
)
GAP: Final = re.compile(rf"\s+|(?<=[{STRONG}])(?![\s{re.escape(CLOSERS)}{STRONG}]|$)")
DOTTED: Final = re.compile(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,3}")  # e.g, U.S, z.B
LONGEST_WORDS: Final = 64  # characters before and after a space that are looked at


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words before a full stop that does not end a sentence.
ABBREVIATIONS: Final = _words(
    """
    mr mrs ms mx dr drs prof rev hon gov sen rep gen col capt lt sgt maj adm st ste mt messrs
    mme mmes mlle mm mgr sr sra srta dra sig dott ing arch avv hr frl dipl bros co corp inc ltd jr
    vs cf eg ie viz approx est ca ungef bzw vgl evtl ggf inkl exkl bspw sog hrsg usf resp max min
    lic univ dept tel ext ave blvd
    """
)
# Words before a full stop that does not end a sentence if a number follows.
BEFORE_NUMBERS: Final = _words(
    """
    no nos nr nrn num fig figs abb tab p pp vol art sec sect ch chap kap eq para pt bd op lfd
    jan feb mar apr jun jul aug sep sept oct okt nov dec dez
    """
)

# Words before an ordinal number, in languages that write it with a full stop.
BEFORE_ORDINALS: Final = _words(
    """
    am ab bis dem den der des die das im jede jeden jeder jedes seit und vom zum zur det dne
    """
)

CLAUSES: Final = re.compile(r"(?<=[,;:،؛.!?…؟–—])\s+|(?<=[、，；：。！？।])\s*")
SPACES: Final = re.compile(r"\s+")


def split_sentences(text: str) -> list[Span]:
    """Return the sentences of a text, in order.

    The text between two sentences is their layout: white space, line breaks, bullets and numbers.
    It is empty between sentences that touch, as in Chinese.
    """
    return [
        sentence
        for start, end in _cells(text)
        if (first := _after_marks(text, start, end)) < end
        for sentence in _in_cell(text, first, end)
    ]


def split_to_fit(text: str, span: Span, fits: Callable[[str], bool]) -> list[Span]:
    """Return the parts of a sentence that fit, as long as possible.

    A sentence that does not fit is split after punctuation, then at white space, and then between
    characters. A single character is a part even if it does not fit.
    """
    return list(_parts(text, *span, fits, (_clauses, _spaces, _characters)))


def _cells(text: str) -> Iterator[Span]:
    """Yield the parts of a text between line breaks, tabs and columns, without outer spaces."""
    start = 0
    for gap in SPACES.finditer(text):
        if gap.start() == 0:
            start = gap.end()
        elif LAYOUT.search(gap[0]):
            yield start, gap.start()
            start = gap.end()
        elif gap.end() == len(text):
            yield start, gap.start()
            return
    if start < len(text):
        yield start, len(text)


def _after_marks(text: str, start: int, end: int) -> int:
    marks = MARKS.match(text, start, end)
    assert marks is not None  # it matches nothing too
    return marks.end()


def _in_cell(text: str, start: int, end: int) -> Iterator[Span]:
    for gap in GAP.finditer(text, start, end):
        if start < gap.start() and gap.end() < end and _is_end(text, start, gap):
            yield start, gap.start()
            start = gap.end()
    yield start, end


def _is_end(text: str, start: int, gap: re.Match[str]) -> bool:
    """Return whether a sentence ends before ``gap``; ``start``: the sentence's start."""
    before = text[max(start, gap.start() - LONGEST_WORDS) : gap.start()]
    previous, word = ["", *before.split()][-2:] if gap[0] else ("", before[-1:])
    core = word.rstrip(CLOSERS)
    body = core.rstrip(STRONG + WEAK)
    stop = core[len(body) :]
    following = text[gap.end() : gap.end() + LONGEST_WORDS].lstrip(OPENERS)[:1]
    if not stop or not following:
        return False
    if set(stop) & set(STRONG):
        return True
    if following.islower() and not "\u10d0" <= following <= "\u10ff":  # Georgian has no capitals
        return False
    return stop != "." or not _is_abbreviation(previous, body.lstrip(OPENERS), following)


def _is_abbreviation(previous: str, word: str, following: str) -> bool:
    """Return whether a word and a full stop may stand inside a sentence.

    ``previous``: the word before it. ``following``: the next character.
    """
    key = word.casefold()
    return (
        key in ABBREVIATIONS
        or (key in BEFORE_NUMBERS and following.isdigit())
        or (len(word) == 1 and word.isalpha())  # an initial
        or (len(word) <= 2 and word.isdigit() and previous.casefold() in BEFORE_ORDINALS)
        or DOTTED.fullmatch(word) is not None
    )


def _parts(
    text: str,
    start: int,
    end: int,
    fits: Callable[[str], bool],
    levels: Sequence[Callable[[str, int, int], list[Cut]]],
) -> Iterator[Span]:
    """Yield parts that fit, split at the cuts of the first level, or where needed of the next."""
    if not levels or fits(text[start:end]):
        yield start, end
        return
    cuts = [cut for cut in levels[0](text, start, end) if start < cut[0] and cut[1] < end]
    cuts.append((end, end))
    i = 0
    while i < len(cuts):
        last = _last_fitting(text, start, cuts, i, fits)
        if last is None:
            last = i
            yield from _parts(text, start, cuts[i][0], fits, levels[1:])
        else:
            yield start, cuts[last][0]
        start, i = cuts[last][1], last + 1


def _last_fitting(
    text: str, start: int, cuts: Sequence[Cut], first: int, fits: Callable[[str], bool]
) -> int | None:
    """Return the index of the last cut, from ``first`` on, before which the part fits."""
    low, step = first - 1, 1
    while low + step < len(cuts) and fits(text[start : cuts[low + step][0]]):
        low += step
        step *= 2
    high = min(low + step, len(cuts))
    while high - low > 1:
        middle = (low + high) // 2
        if fits(text[start : cuts[middle][0]]):
            low = middle
        else:
            high = middle
    return None if low < first else low


def _clauses(text: str, start: int, end: int) -> list[Cut]:
    return [cut.span() for cut in CLAUSES.finditer(text, start, end)]


def _spaces(text: str, start: int, end: int) -> list[Cut]:
    return [cut.span() for cut in SPACES.finditer(text, start, end)]


def _characters(text: str, start: int, end: int) -> list[Cut]:
    """Return the cuts between characters, but not before a combining mark or a joined emoji."""
    joiner = "\u200d"
    return [
        (i, i)
        for i in range(start + 1, end)
        if joiner not in text[i - 1 : i + 1] and not unicodedata.category(text[i]).startswith("M")
    ]
