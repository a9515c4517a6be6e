"""Write a part of the dictionary as pairs of source and target for `edgeseq eval`.

    python -m demos.t5.pairs validation FILE.tsv

Each word gives one pair per task, with its first pronunciation. Validation words are for
calibrating a quantized model, test words for measuring its quality.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demos.t5.dictionary import pronounce_source, read_dictionary, spell_source, split


def main() -> None:
    parser = argparse.ArgumentParser(description="Write pairs of the demo T5's tasks.")
    parser.add_argument("part", choices=["validation", "test"])
    parser.add_argument("out", type=Path, help="file to write, tab-separated")
    arguments = parser.parse_args()
    words = getattr(split(read_dictionary()), arguments.part)
    with arguments.out.open("w", encoding="utf-8", newline="\n") as file:
        for word, (spoken, *_) in words.items():
            print(pronounce_source(word), " ".join(spoken), sep="\t", file=file)
            print(spell_source(spoken), word, sep="\t", file=file)


if __name__ == "__main__":
    main()
