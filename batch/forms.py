"""The forms of an output: JSON Lines, CSV, TSV and Parquet, compressed or not; rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..runtime.errors import OptionError
from ..runtime.tables.table import SUFFIXES
from .columns import ERROR, INPUT, LINE, PROBABILITIES, RUN, TASK, TRUNCATED
from .job import Job


class Form(NamedTuple):
    """The form of an output file."""

    format: str  # jsonl, csv, tsv or parquet
    packed: bool = False  # whether it is compressed with gzip

    @property
    def can_grow(self) -> bool:
        """Whether answers are appended to the file itself."""
        return self == Form("jsonl")


def form_of(out: Path, format: str | None = None) -> Form:
    """Return the form of a file, by its suffix unless ``format`` is given; else JSON Lines."""
    packed = out.suffix.lower() == ".gz"
    suffix = Path(out.stem if packed else out).suffix.lower()
    form = Form(format or SUFFIXES.get(suffix, "jsonl"), packed)
    if form == Form("parquet", True):
        raise OptionError(f"{out}: Parquet is compressed already, leave out .gz.")
    return form


def flat_row(job: Job, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input's columns of an answer, of which ``entry`` is the parsed JSON."""
    own = {LINE, TASK, RUN, INPUT, job.columns.output, PROBABILITIES, TRUNCATED, ERROR}
    others = {name: value for name, value in entry.items() if name not in own}
    return job.columns.flat(entry[INPUT], others)


def entries(part: Path) -> Iterator[dict[str, Any]]:
    """Yield the answers of a file of JSON Lines."""
    with part.open("rb") as file:
        for line in file:
            yield json.loads(line)
