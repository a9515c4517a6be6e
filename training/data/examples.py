"""What is read from files of data: examples, facts of the files, rows that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A source, and the target that the model is to answer."""

    source: str
    target: str


Example = Pair | str  # a string is a document


@dataclass(frozen=True)
class FileFacts:
    """Facts of a file; ``rows`` counts its usable rows, or the lines of a plain text."""

    name: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class Unusable:
    """A row that cannot be used, and why."""

    file: Path
    line: int  # from 1; in a Parquet file the number of the row
    reason: str  # a part of a sentence

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The examples of files: all of them pairs, or all of them documents."""

    training: Sequence[Pair] | Sequence[str]
    held_out: Sequence[Pair] | Sequence[str]
    files: Sequence[FileFacts]
    held_out_files: Sequence[FileFacts]
    unusable: Sequence[Unusable] = ()
    left_out: int = 0  # training examples that are left out because the held-out files have them
