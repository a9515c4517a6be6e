"""Write a part of the dictionary as pairs of source and target.

    python -m demos.t5.pairs training FILE.jsonl
    python -m demos.t5.pairs validation FILE.jsonl

Training words give one pair per task and pass, with one of their pronunciations at random; the
other parts give one pair per task, with the first pronunciation. Validation words are held out
while the model trains, and calibrate its bundle; test words measure the bundle. A file whose name
does not end in .jsonl is tab-separated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from demos.t5.dictionary import (
    Dictionary,
    Pair,
    pronounce_source,
    read_dictionary,
    spell_source,
    split,
    training_pairs,
)

PASSES = 4  # over the training words, each with other pronunciations, cases and stress


def fixed_pairs(words: Dictionary) -> list[Pair]:
    """Return a pair per word and task, with the word's first pronunciation."""
    return [
        pair
        for word, (spoken, *_) in words.items()
        for pair in (
            (pronounce_source(word), " ".join(spoken)),
            (spell_source(spoken), word),
        )
    ]


def write_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """Write pairs as JSON Lines, or tab-separated if ``path`` does not end in .jsonl."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for source, target in pairs:
            pair = {"source": source, "target": target}
            print(json.dumps(pair) if path.suffix == ".jsonl" else f"{source}\t{target}", file=file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write pairs of the demo T5's tasks.")
    parser.add_argument("part", choices=["training", "validation", "test"])
    parser.add_argument("out", type=Path, help="file to write, .jsonl or tab-separated")
    parser.add_argument("--seed", type=int, default=0, help="of the training pairs")
    arguments = parser.parse_args()
    words = getattr(split(read_dictionary()), arguments.part)
    if arguments.part == "training":
        rng = np.random.default_rng(arguments.seed)
        pairs = [pair for _ in range(PASSES) for pair in training_pairs(words, rng)]
    else:
        pairs = fixed_pairs(words)
    write_pairs(pairs, arguments.out)


if __name__ == "__main__":
    main()
