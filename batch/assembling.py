"""Outputs that are made once all answers are there, from a file of JSON Lines.

These are all forms but plain JSON Lines: Parquet and gzip cannot be continued after an
interruption, and a table has columns that only the last row may have. The finished file replaces an
older one in one step.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from .columns import ERROR, LINE, PROBABILITIES, RUN, TASK
from .forms import Form, entries, flat_row
from .job import Job
from .parquet import write_parquet
from .source import Source
from .values import as_text

DELIMITERS = {"csv": ",", "tsv": "\t"}


def assemble(
    job: Job, source: Source, columns: Sequence[str] | None, part: Path, out: Path, form: Form
) -> None:
    """Write ``out`` from ``part``, the complete answers as JSON Lines.

    ``columns``: the columns of the input, if all rows have the same. An interruption leaves ``out``
    as it was.
    """
    new = out.with_name(f"{out.name}.new")
    try:
        if form.format == "parquet":
            write_parquet(job, source, part, new, columns)
        else:
            with new.open("wb") as file:
                if form.packed:  # without a name and a time: equal answers are equal bytes
                    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                        _write(job, part, cast(BinaryIO, packed), form, columns)
                else:
                    _write(job, part, file, form, columns)
                file.flush()
                os.fsync(file.fileno())
        new.replace(out)
    finally:
        new.unlink(missing_ok=True)


def _write(job: Job, part: Path, file: BinaryIO, form: Form, columns: Sequence[str] | None) -> None:
    if form.format == "jsonl":
        with part.open("rb") as lines:
            file.writelines(lines)
        return
    delimiter = DELIMITERS[form.format]
    names = input_names(job, part, columns)
    own = [job.columns.output, *([PROBABILITIES] if job.has_probabilities else []), ERROR]
    file.write(_row([LINE, TASK, RUN, *names, *own], delimiter))
    for entry in entries(part):
        flat = flat_row(job, entry)
        head = [entry[name] for name in (LINE, TASK, RUN)]
        values = [*head, *(flat.get(name) for name in names), *(entry.get(name) for name in own)]
        file.write(_row(map(as_text, values), delimiter))


def input_names(job: Job, part: Path, columns: Sequence[str] | None) -> list[str]:
    """Return the names of the input's columns in a table: of all rows, in the input's order."""
    names = dict.fromkeys(job.columns.renamed_all(columns or ()))
    for entry in entries(part):
        names |= dict.fromkeys(flat_row(job, entry))
    return list(names)


def _row(values: Iterable[str], delimiter: str) -> bytes:
    """Return a row of a delimited file, in the form of RFC 4180 with LF."""
    special = (delimiter, '"', "\n", "\r")
    written = [
        '"' + value.replace('"', '""') + '"' if any(sign in value for sign in special) else value
        for value in values
    ]
    return (delimiter.join(written) + "\n").encode()
