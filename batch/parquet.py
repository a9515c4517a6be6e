"""An output in Parquet; needs pyarrow (the extra ``parquet``).

Columns of a Parquet input keep their types: they are read again and joined with the answers by
position. Columns of other inputs are strings, numbers or truth values, or JSON texts where a column
has lists, objects or several types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ..runtime.errors import MissingPackageError, PromptError
from ..runtime.tables.parquet import batches as read_batches
from .columns import ERROR, LINE, PROBABILITIES, RUN, TASK
from .forms import entries, flat_row
from .job import Job
from .source import Source
from .values import as_text, is_missing

GROUP_ROWS = 8192  # rows of a row group, and
GROUP_BYTES = 32 << 20  # bytes of its answers, at most
SCALARS = {str: "string", bool: "bool_", int: "int64", float: "float64"}


def check_pyarrow(out: Path) -> None:
    """Raise ``MissingPackageError`` if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"Writing {out} needs pyarrow: install the extra 'parquet' "
            '(python -m pip install "edgeseq[parquet]").'
        ) from error


def write_parquet(
    job: Job, source: Source, part: Path, new: Path, columns: Sequence[str] | None
) -> None:
    """Write the answers in ``part``, a file of JSON Lines, to the Parquet file ``new``."""
    import pyarrow
    import pyarrow.parquet

    if source.format == "parquet":
        input_file = pyarrow.parquet.ParquetFile(source.path)
        kept = job.columns.renamed_all(input_file.schema_arrow.names)
        fields = [
            field.with_name(name) for field, name in zip(input_file.schema_arrow, kept, strict=True)
        ]
        batches = read_batches(input_file, 1024, source.part)
    else:
        kept, fields, batches = [], [], None
    types = _types(job, part, columns)
    made = [name for name in types if name not in kept]
    texts = pyarrow.string()
    scalars = {name: getattr(pyarrow, kind)() for name, kind in types.items() if name in made}
    own = {job.columns.output: texts}
    if job.has_probabilities:
        own[PROBABILITIES] = pyarrow.map_(texts, pyarrow.float64())
    own[ERROR] = texts
    schema = pyarrow.schema(
        [
            *((LINE, pyarrow.int64()), (TASK, texts), (RUN, texts)),
            *fields,
            *scalars.items(),
            *own.items(),
        ]
    )
    with pyarrow.parquet.ParquetWriter(new, schema) as writer:
        for group in _groups(part):
            flat = [flat_row(job, entry) for entry in group]
            arrays = [
                pyarrow.array([entry[name] for entry in group], schema.field(name).type)
                for name in (LINE, TASK, RUN)
            ]
            if batches is not None:
                table, batches = _taken(batches, len(group), source)
                arrays += table.columns
            for name, kind in scalars.items():
                values = [_typed(row.get(name), types[name]) for row in flat]
                arrays.append(pyarrow.array(values, kind))
            for name, kind in own.items():
                values = [entry.get(name) for entry in group]
                if name == PROBABILITIES:
                    values = [None if v is None else list(v.items()) for v in values]
                arrays.append(pyarrow.array(values, kind))
            writer.write_table(pyarrow.table(arrays, schema=schema), row_group_size=len(group))


def _groups(part: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the answers of each row group."""
    group: list[dict[str, Any]] = []
    size = 0
    with part.open("rb") as file:
        for line in file:
            if group and (len(group) == GROUP_ROWS or size + len(line) > GROUP_BYTES):
                yield group
                group, size = [], 0
            group.append(json.loads(line))
            size += len(line)
    if group:
        yield group


def _taken(batches: Iterator[Any], count: int, source: Source) -> tuple[Any, Iterator[Any]]:
    """Return the next ``count`` rows of ``batches`` as a table, and what follows them."""
    import pyarrow

    found, missing = [], count
    while missing:
        batch = next(batches, None)
        if batch is None:
            raise PromptError(f"{source.path} has changed during the run: run it again.")
        found.append(batch.slice(0, missing))
        if batch.num_rows > missing:
            batches = chain([batch.slice(missing)], batches)
        missing -= found[-1].num_rows
    return pyarrow.Table.from_batches(found), batches


def _types(job: Job, part: Path, columns: Sequence[str] | None) -> dict[str, str]:
    """Return the type of each column of the input, by the names of pyarrow's functions."""
    found: dict[str, str | None] = dict.fromkeys(job.columns.renamed_all(columns or ()))
    for entry in entries(part):
        for name, value in flat_row(job, entry).items():
            kind = None if is_missing(value) else SCALARS.get(type(value), "string")
            if kind == "int64" and not -(2**63) <= value < 2**63:
                kind = "string"
            known = found.setdefault(name, kind)
            if kind != known and kind is not None:
                found[name] = kind if known is None else "string"
    return {name: kind or "string" for name, kind in found.items()}


def _typed(value: Any, kind: str) -> Any:
    if is_missing(value):
        return None
    return as_text(value) if kind == "string" else value
