"""The split into training and held-out examples: seeded, and without leaks.

What is held out depends on the seed and on the examples alone, not on the order of rows or files.
Examples with the same source (or documents with the same text) are never divided. When rows are
added, most of the held-out rows stay held out.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from ...runtime.errors import PromptError
from ..template import DataSettings
from .examples import Example, Pair
from .reading import trim

FEWEST = 10  # pairs, or stretches of text, of which some can be held out
MANY = 20  # documents, of which whole ones are held out
STRETCHES = 100  # parts of a text
SHORTEST, LONGEST = 500, 20_000  # characters of a stretch
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
ENDS = (BLANK_LINES, re.compile(r"\n"), re.compile(r"\s"))  # where a text is cut, best first
Split = tuple[list[Example], list[Example]]  # training, held out


def split(examples: Sequence[Example], settings: DataSettings) -> Split:
    """Return the training examples, in their order, and the held-out ones.

    Held-out pairs and documents are in random order, so that the first of them are a sample. Of a
    few documents, stretches of text are held out instead of whole documents. Raises
    ``PromptError`` for too few examples.
    """
    if settings.form == "text" and len(examples) < MANY:
        return _split_texts([text for text in examples if isinstance(text, str)], settings)
    if len(examples) < FEWEST:
        raise PromptError(
            f"There {'is' if len(examples) == 1 else 'are'} only {len(examples)} usable "
            f"pair{'s' * (len(examples) != 1)}, of which none can be held out: give at least "
            f"{FEWEST}, or held-out files."
        )
    return _split_groups(examples, settings)


def key_of(example: Example) -> str:
    """Return what examples that belong together share: the source, or the text of a document.

    Whitespace makes no difference.
    """
    return " ".join((example.source if isinstance(example, Pair) else example).split())


def _rank(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}\n{key}".encode(), digest_size=16).digest()


def _split_groups(examples: Sequence[Example], settings: DataSettings) -> Split:
    keys = [key_of(example) for example in examples]
    groups: dict[str, list[Example]] = defaultdict(list)
    for key, example in zip(keys, examples, strict=True):
        groups[key].append(example)
    if len(groups) == 1:
        same = "have the same source" if settings.form == "pairs" else "are the same"
        raise PromptError(
            f"All examples {same}, so that none can be held out: give others, or held-out files."
        )
    share = max(round(settings.held_out * len(examples)), 1)
    wanted = min(share, settings.held_out_limit, len(examples) - 1)  # one is left for training
    order = sorted(groups, key=lambda key: _rank(settings.seed, key))
    sizes = {key: len(groups[key]) for key in order}
    chosen = _chosen(sizes, wanted)
    training = [example for key, example in zip(keys, examples, strict=True) if key not in chosen]
    return training, [example for key in order if key in chosen for example in groups[key]]


def _chosen(sizes: dict[str, int], wanted: int) -> set[str]:
    """Return the first keys of ``sizes`` that fit into ``wanted`` together, or the smallest."""
    chosen, taken = set(), 0
    for key, size in sizes.items():
        if taken + size <= wanted:
            chosen.add(key)
            taken += size
    return chosen or {min(sizes, key=lambda key: sizes[key])}


def _split_texts(texts: Sequence[str], settings: DataSettings) -> Split:
    total = sum(map(len, texts))
    size = min(max(total // STRETCHES, SHORTEST), LONGEST)
    parts = [
        (f"{number}.{place}", number, part)
        for number, text in enumerate(texts)
        for place, part in enumerate(stretches(text, size))
    ]
    if len(parts) < FEWEST:
        raise PromptError(
            f"The text has {total:,} characters, of which no part can be held out: give at least "
            f"{FEWEST * SHORTEST:,}, or held-out files."
        )
    order = sorted(parts, key=lambda part: _rank(settings.seed, part[0]))
    chosen = _within_limit(order, settings, settings.held_out * total)
    found: Split = ([], [])
    for (is_held_out, _), run in groupby(parts, key=lambda part: (part[0] in chosen, part[1])):
        if text := trim("".join(part for _, _, part in run)):
            found[is_held_out].append(text)
    return found


def _within_limit(
    order: Sequence[tuple[str, int, str]], settings: DataSettings, wanted: float
) -> set[str]:
    """Return the keys of the stretches to hold out: ``wanted`` characters of them, or one."""
    chosen: set[str] = set()
    characters = passages = 0
    for key, _, part in order:
        found = len(BLANK_LINES.findall(part.strip())) + 1
        if characters + len(part) <= wanted and passages + found <= settings.held_out_limit:
            chosen.add(key)
            characters += len(part)
            passages += found
    return chosen or {order[0][0]}


def stretches(text: str, size: int) -> list[str]:
    """Return ``text`` in parts of ``size`` characters to two and a half times as many.

    A part ends after empty lines if it can, otherwise at the end of a line, otherwise after a
    space. The last part may have half of ``size``, and a shorter text is one part.
    """
    parts, start = [], 0
    while len(text) - start > size * 3 // 2:
        end = start + size
        for pattern in ENDS:
            if found := pattern.search(text, start + size - 1, start + 2 * size):
                end = found.end()
                break
        if len(text) - end < size // 2:
            break
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]
