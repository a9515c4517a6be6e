"""Data sets: the examples of files, split into training and held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..template import DataSettings


@dataclass(frozen=True)
class Pair:
    """A source, and the target that the model is to answer."""

    source: str
    target: str


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file of data; ``rows`` counts the usable rows or documents."""

    name: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class Unusable:
    """A row or line that cannot be used, and why."""

    file: Path
    line: int  # from 1; in a Parquet file the row's number
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The examples of files: pairs, or documents (strings)."""

    training: Sequence[Pair] | Sequence[str]
    held_out: Sequence[Pair] | Sequence[str]
    files: Sequence[FileFacts]
    held_out_files: Sequence[FileFacts]
    unusable: Sequence[Unusable]
    left_out: int = 0  # training rows whose source is also in the held-out files


def read_dataset(
    settings: DataSettings, files: Sequence[Path], held_out: Sequence[Path] = ()
) -> Dataset:
    """Return the examples of ``files``.

    ``held_out``: files of held-out examples; without them a seeded share of the examples is held
    out. Raises ``PromptError`` for a file that cannot be used, or too few examples.
    """
    raise NotImplementedError


def prompt_of(settings: DataSettings, source: str, *, is_decoder_only: bool) -> str:
    """Return the prompt that a model reads for ``source``."""
    return f"{settings.source_prefix}{source}{settings.separator if is_decoder_only else ''}"


def write_held_out(dataset: Dataset, path: Path, prompt: Callable[[str], str] = str) -> None:
    """Write the held-out examples: pairs as JSON Lines, documents as one text.

    ``prompt``: from a source to the source that is written, such as ``prompt_of``.
    """
    raise NotImplementedError
