"""Say how far two reports of ``edgeseq compare`` agree that were measured one after the other.

    edgeseq compare BUNDLE... --data FILE -o json > first.json
    edgeseq compare BUNDLE... --data FILE -o json > second.json
    python benchmarks/repeatability.py first.json second.json

A cell is one figure of one bundle that the table shows with an interval. The cells of two reports
agree if their medians differ by no more than the two intervals together. Perplexity must be equal.
More pairs of reports may follow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Report = Mapping[str, Any]
FIGURES = ("load_s", "first_token_ms", "decode_tokens_per_s", "peak_memory_mb")


class Cell(NamedTuple):
    """A figure in both reports."""

    bundle: str
    figure: str
    first: Mapping[str, float]
    second: Mapping[str, float]
    is_disturbed: bool  # in one of the reports

    @property
    def difference(self) -> float:
        """The difference of the medians, as a share of the first one."""
        return abs(self.first["median"] - self.second["median"]) / self.first["median"]

    @property
    def agrees(self) -> bool:
        """Whether the medians differ by no more than the intervals."""
        limit = self.first["plus_minus"] + self.second["plus_minus"]
        return abs(self.first["median"] - self.second["median"]) <= limit


def main() -> None:
    """Print the cells that differ, and one JSON object."""
    parser = argparse.ArgumentParser(description="Agreement of two reports of `edgeseq compare`.")
    parser.add_argument("reports", type=Path, nargs="+", metavar="FIRST SECOND")
    given = parser.parse_args()
    if len(given.reports) % 2:
        parser.error("give pairs of reports")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in given.reports]
    pairs = list(zip(found[::2], found[1::2], strict=True))
    cells = [cell for first, second in pairs for cell in cells_of(first, second)]
    for cell in cells:
        if not cell.agrees:
            print(
                f"{cell.bundle} {cell.figure}: {cell.first['median']} ± {cell.first['plus_minus']} "
                f"and {cell.second['median']} ± {cell.second['plus_minus']}"
                f"{', disturbed' * cell.is_disturbed}",
                file=sys.stderr,
            )
    same = [
        one["perplexity"]["score"]["value"] == other["perplexity"]["score"]["value"]
        for first, second in pairs
        for one, other in zip(first["bundles"], second["bundles"], strict=True)
    ]
    print(
        json.dumps(
            {
                "bundles": len(same),
                "cells": len(cells),
                "agree": sum(cell.agrees for cell in cells),
                "disturbed": sum(cell.is_disturbed for cell in cells),
                "median_difference": sorted(cell.difference for cell in cells)[len(cells) // 2],
                "equal_perplexity": sum(same),
            }
        )
    )


def cells_of(first: Report, second: Report) -> Iterator[Cell]:
    """Yield the figures of all bundles; the reports are of the same bundles."""
    for one, other in zip(first["bundles"], second["bundles"], strict=True):
        if one["name"] != other["name"]:
            sys.exit(f"The reports are of other bundles: {one['name']} and {other['name']}.")
        is_disturbed = one["disturbed_rounds"] > 0 or other["disturbed_rounds"] > 0
        figures = {name: (one[name], other[name]) for name in FIGURES}
        for length, figure in one["prefill_tokens_per_s"].items():
            figures[f"pp{length}"] = (figure, other["prefill_tokens_per_s"][length])
        for name, (ours, theirs) in figures.items():
            yield Cell(one["name"], name, ours, theirs, is_disturbed)


if __name__ == "__main__":
    main()
