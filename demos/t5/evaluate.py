"""Measure a bundle of the demo T5 on the held-out words, with the bundle's default options.

    python -m demos.t5.evaluate --bundle runtime/bundle/demos/t5 --out demos/t5/heldout.json

Word error rate: the share of words whose output equals no pronunciation in the dictionary. Phoneme
error rate: edits (insertions, deletions, substitutions) to the nearest pronunciation, divided by
the number of phonemes in the nearest pronunciations. In spelling, homophones count as right:
any word with the requested pronunciation in the dictionary, including training words.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from demos.t5.dictionary import (
    Dictionary,
    Pronunciation,
    pronounce_source,
    read_dictionary,
    spell_source,
    split,
    without_stress,
)
from edgeseq.runtime import EdgeseqError, Model, load
from edgeseq.runtime.evaluation.error_rates import edit_distance

BATCH = 64


def answers(model: Model, sources: Sequence[str]) -> list[str]:
    """Return the model's text for each source; sources of similar length share a batch."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    texts = [""] * len(sources)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        for i, result in zip(chosen, model.generate([sources[i] for i in chosen]), strict=True):
            texts[i] = result.text
    return texts


def pronunciation_errors(
    words: Dictionary,
    spoken: Sequence[Pronunciation],
    form: Callable[[Pronunciation], Pronunciation],
) -> dict[str, float]:
    """Return word and phoneme error rates of the pronunciations ``spoken``.

    ``form`` is applied to both sides before they are compared.
    """
    wrong, edits, phonemes = 0, 0, 0
    for pronunciations, found in zip(words.values(), spoken, strict=True):
        distance, length = min(
            (edit_distance(form(found), form(p)), len(p)) for p in pronunciations
        )
        wrong += distance > 0
        edits += distance
        phonemes += length
    return {
        "word_error_rate": round(wrong / len(words), 4),
        "phoneme_error_rate": round(edits / phonemes, 4),
    }


def spelling_errors(
    words: Dictionary, written: Sequence[str], everything: Dictionary
) -> dict[str, float]:
    """Return error rates of the spellings ``written`` of each word's first pronunciation.

    ``everything``: the whole dictionary, for homophones.
    """
    homophones: dict[Pronunciation, set[str]] = defaultdict(set)
    for word, pronunciations in everything.items():
        for pronunciation in pronunciations:
            homophones[pronunciation].add(word)
    pairs = list(zip(words.items(), written, strict=True))
    exact = sum(found != word for (word, _), found in pairs)
    wrong = sum(found not in homophones[spoken[0]] for (_, spoken), found in pairs)
    return {
        "word_error_rate": round(wrong / len(pairs), 4),
        "word_error_rate_without_homophones": round(exact / len(pairs), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate the demo T5.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, help="JSON file to write the figures to (default: print)"
    )
    arguments = parser.parse_args()

    model = load(arguments.bundle)
    everything = read_dictionary()
    words = split(everything).test
    spoken = [tuple(text.split()) for text in answers(model, [*map(pronounce_source, words)])]
    first = [pronunciations[0] for pronunciations in words.values()]
    written = answers(model, [*map(spell_source, first)])
    report = {
        "words": len(words),
        "pronounce": pronunciation_errors(words, spoken, lambda p: p),
        "pronounce_without_stress": pronunciation_errors(words, spoken, without_stress),
        "spell": spelling_errors(words, written, everything),
    }
    text = json.dumps(report, indent=2) + "\n"
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
