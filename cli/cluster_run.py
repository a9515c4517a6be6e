"""Runs of ``edgeseq run --ray``: flags, input and output of a job on a Ray cluster."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import OptionError
from .flags import integer, machine_of

if TYPE_CHECKING:
    from ..runtime.tasks.templates import Template

HERE = ""  # --ray without an address
NO_EFFECT = ("prepack", "overwrite", "retry_errors", "input_format")
FORMATS = ("jsonl", "parquet")


def add_cluster(group: Any) -> None:
    """Add the flags of runs on a cluster to a group."""
    group.add_argument(
        "--ray",
        nargs="?",
        const=HERE,
        metavar="ADDRESS",
        help="compute on a Ray cluster (needs the extra 'ray'): --input and --output are folders "
        "that its machines share; default: the cluster of this machine",
    )
    group.add_argument(
        "--id-column",
        metavar="NAME",
        help="column of ids, which must be unique (default: ids are made, as row_id)",
    )
    group.add_argument(
        "--shard-rows",
        type=integer,
        metavar="N",
        help="number of rows of an output file, which appears when it is complete (default: 1024)",
    )


def check_cluster_usage(arguments: argparse.Namespace) -> None:
    """End the program with status 2 for flags that do not belong together."""
    if arguments.ray is None:
        for name in ("id_column", "shard_rows"):
            if getattr(arguments, name) is not None:
                arguments.usage_error(f"--{name.replace('_', '-')} has no effect without --ray")
        return
    if arguments.input in (None, Path("-")) or arguments.output in (None, Path("-")):
        arguments.usage_error("--ray needs --input and --output, which are folders")
    for name in NO_EFFECT:
        if getattr(arguments, name):
            arguments.usage_error(f"--{name.replace('_', '-')} has no effect with --ray")
    if arguments.device != "cpu":
        arguments.usage_error("--device has no effect with --ray: workers compute on the CPU")
    if arguments.output_format not in (None, *FORMATS):
        arguments.usage_error(f"--output-format with --ray is {' or '.join(FORMATS)}")


def answer_on_cluster(
    arguments: argparse.Namespace,
    template: Template,
    fields: dict[str, str],
    options: dict[str, Any],
) -> int:
    """Run the task on the rows of the input; return the exit status."""
    from ..batch.cluster.driver import answer_shards, connected, cpus_of, room_for
    from ..batch.cluster.folder import opened
    from ..batch.cluster.shards import (
        ROW_ID,
        SHARD_ROWS,
        check_columns,
        check_ids,
        check_shard_rows,
        input_files,
        shards_of,
    )
    from ..batch.cluster.worker import Work, bundle_folder, bundle_hash
    from ..batch.columns import ALWAYS, OUTPUT, Columns
    from ..batch.forms import Form

    threads = 1 if arguments.threads is None else arguments.threads
    shard_rows = SHARD_ROWS if arguments.shard_rows is None else arguments.shard_rows
    check_shard_rows(shard_rows)
    room_for([threads], threads, None)  # a bad number is an error before the input is read
    made = [ROW_ID] if arguments.id_column is None else []
    output_column = OUTPUT if arguments.output_column is None else arguments.output_column
    if output_column in (*made, arguments.id_column):
        raise OptionError(f"--output-column {output_column} is the column of ids: give another.")
    if arguments.id_column in ALWAYS:
        raise OptionError(
            f"--id-column {arguments.id_column} is the name of a column of the output: rename it."
        )
    columns = Columns(
        template,
        text_column=arguments.text_column,
        output_column=output_column,
        constants=fields,
    )
    bundle = arguments.bundle.resolve() if arguments.bundle is not None else None
    hashed = bundle_hash(bundle_folder(bundle, arguments.demo))
    files = input_files(arguments.input)
    found = check_columns(files, columns, arguments.id_column)
    if arguments.id_column is not None:
        check_ids(files, arguments.id_column)
    shards = shards_of(files, shard_rows)
    of_input = {shard.file.name: (shard.file.size, shard.file.sha256) for shard in shards}
    format = arguments.output_format
    if format is None:
        format = "jsonl" if any(file.format == "jsonl" for file in files) else "parquet"
    loading = {**machine_of(arguments), "threads": threads}
    told = {
        "input": of_input,
        "bundle": hashed,
        "task": [template.name, repr(template)],
        "options": options,
        "fields": fields,
        "columns": [arguments.text_column, output_column, arguments.id_column],
        "--shard-rows": shard_rows,
        "--output-format": format,
        "--kv-cache": arguments.kv_cache,
    }
    with opened(arguments.output, told, shards, format) as folder:
        missing = folder.missing()
        if missing:
            work = Work(
                bundle=bundle,
                demo=arguments.demo,
                bundle_hash=hashed,
                loading=loading,
                template=template,
                options=options,
                columns=columns,
                found=found,
                id_column=arguments.id_column,
                folder=folder.path,
                token=folder.token,
                form=Form(format),
            )
            with connected(arguments.ray or None) as ray:
                workers = room_for(cpus_of(ray), threads, arguments.workers)
                answer_shards(ray, work, folder, workers=workers, threads=threads, say=_say)
        failed = folder.failed()
    count = f"{len(shards)} shard{'s' * (len(shards) != 1)}"
    before = len(shards) - len(missing)
    there = f", {before} of them from an earlier run" if before else ""
    errors = f", and {failed} rows have an error (see {folder.path / '_errors'})" if failed else ""
    _say(f"{arguments.output} has {count} of {sum(s.rows for s in shards)} rows{there}{errors}")
    return 1 if failed else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)
