"""Flags that all scripts of this folder have, their table, and the list of broken promises."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .operations import OPERATIONS, Trial


def add_flags(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the flags of all scripts, and return the parser."""
    parser.add_argument("--work", type=Path, required=True, help="folder for models and trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--operations",
        nargs="+",
        choices=[operation.name for operation in OPERATIONS],
        metavar="NAME",
        help="the operations to try (default: all)",
    )
    return parser


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    for line in lines:
        print(f"| {' | '.join(map(str, line))} |", flush=True)


class Broken:
    """The promises that were broken; the folders of their trials are kept."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, fault: str, trial: Trial) -> None:
        """Print a broken promise of a trial."""
        self.note(fault, trial.folder)

    def note(self, fault: str, folder: Path) -> None:
        """Print a broken promise, and the folder to look at."""
        self._count += 1
        print(f"BROKEN: {fault} ({folder})", file=sys.stderr, flush=True)

    def report(self) -> int:
        """Print how many promises were broken; return the exit status."""
        print(f"\n{self._count or 'No'} broken promise{'s' * (self._count != 1)}.", flush=True)
        return 1 if self._count else 0
