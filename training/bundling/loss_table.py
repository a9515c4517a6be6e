"""The table of what a checkpoint loses on its way to a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]  # by name, such as "perplexity"

COLUMNS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "size_bytes": ("size", lambda size: f"{size / 1e6:.1f} MB"),
    "cross_entropy": ("loss", "{:.4f}".format),
    "perplexity": ("perplexity", "{:.4g}".format),
    "bits_per_byte": ("bits/byte", "{:.4f}".format),
    "exact_match": ("exact match", "{:.1%}".format),
    "word_error_rate": ("word errors", "{:.1%}".format),
    "character_error_rate": ("char. errors", "{:.1%}".format),
}
OF_TEXT = ("bits_per_byte",)  # figures that say nothing about pairs


def loss_table(stages: Mapping[str, Figures]) -> list[str]:
    """Return the figures of each stage as lines of text; the first line has the columns' names."""
    rows = _rows(stages)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown_table(stages: Mapping[str, Figures]) -> list[str]:
    """Return the figures of each stage as lines of a table in Markdown."""
    head, *rows = (f"| {' | '.join(row)} |" for row in _rows(stages))
    return [head, f"|---{'|--:' * (head.count('|') - 2)}|", *rows]


def _rows(stages: Mapping[str, Figures]) -> list[Sequence[str]]:
    known = {name for figures in stages.values() for name in figures}
    of_pairs = "exact_match" in known
    names = [name for name in COLUMNS if name in known and not (of_pairs and name in OF_TEXT)]
    head = ["", *(COLUMNS[name][0] for name in names)]
    return [
        head,
        *(
            [stage, *(COLUMNS[name][1](figures[name]) for name in names)]
            for stage, figures in stages.items()
        ),
    ]
