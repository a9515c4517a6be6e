"""File runs of ``edgeseq run``: flags, input, output and processes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import OptionError, PromptError
from .flags import integer, machine_of, say_device, say_reading

if TYPE_CHECKING:
    from ..batch.files import Answered, Answers
    from ..batch.forms import Form
    from ..batch.job import Job
    from ..batch.source import Source
    from ..batch.workers import Ready
    from ..runtime.bundle.manifest import Manifest
    from ..runtime.model import Model
    from ..runtime.tasks.templates import Template

STANDARD = Path("-")  # standard input or output instead of a file
INPUT_FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
OUTPUT_FORMATS = ("jsonl", "csv", "tsv", "parquet")
NEED_INPUT = (
    "output",
    "prepack",
    "overwrite",
    "retry_errors",
    "text_column",
    "output_column",
    "input_format",
    "output_format",
)


def add_files(files: Any) -> None:
    """Add the flags of file runs to a group."""
    files.add_argument(
        "--input", type=Path, metavar="FILE", help="file of inputs; - is standard input"
    )
    files.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file for the answers (default: standard output, as JSON Lines)",
    )
    files.add_argument(
        "--text-column",
        metavar="NAME",
        help="column of the task's first field (default: the column of the field's name)",
    )
    files.add_argument(
        "--output-column", metavar="NAME", help="column for the answers (default: output)"
    )
    files.add_argument(
        "--input-format",
        choices=INPUT_FORMATS,
        help="format of the input (default: that of its suffix, and otherwise text)",
    )
    files.add_argument(
        "--output-format",
        choices=OUTPUT_FORMATS,
        help="format of the output (default: that of its suffix, and otherwise jsonl)",
    )
    files.add_argument(
        "--workers",
        type=integer,
        metavar="N",
        help="number of processes, which share the threads (default: 1; with --ray, as many as the "
        "cluster has room for, with --threads each)",
    )
    files.add_argument(
        "--prepack",
        action="store_true",
        help="keep packed weights in the user's cache folder, so that processes share their memory",
    )
    files.add_argument("--overwrite", action="store_true", help="replace the output file")
    files.add_argument(
        "--retry-errors",
        action="store_true",
        help="compute the rows of the output again that have an error",
    )


def check_usage(arguments: argparse.Namespace) -> None:
    """End the program with status 2 for flags that do not belong together."""
    if arguments.workers is not None and arguments.workers < 1:
        arguments.usage_error(f"--workers is {arguments.workers}; it must be at least 1")
    if arguments.input is None:
        if (arguments.workers or 1) > 1:
            arguments.usage_error("--workers has no effect without --input")
        for name in NEED_INPUT:
            if getattr(arguments, name):
                arguments.usage_error(f"--{name.replace('_', '-')} has no effect without --input")
        return
    if arguments.text is not None or arguments.json:
        arguments.usage_error("--input cannot be combined with a text or --json")
    if arguments.output in (None, STANDARD):
        if arguments.overwrite or arguments.retry_errors:
            arguments.usage_error("--overwrite and --retry-errors need an --output file")
        if arguments.output_format not in (None, "jsonl"):
            arguments.usage_error(f"--output-format {arguments.output_format} needs --output FILE")
    if arguments.overwrite and arguments.retry_errors:
        arguments.usage_error("--retry-errors has no effect with --overwrite")


def answer_rows(
    arguments: argparse.Namespace,
    template: Template,
    fields: dict[str, str],
    options: dict[str, Any],
) -> int:
    """Run the task on the rows of the input; return the exit status."""
    source, out, form = _files(arguments, template, fields)
    found = [*template.fields]  # unknown in a stream, which is read only once
    if source.format == "text":
        found = found[:1]
    if source.stream is None:
        with source.open() as rows:  # errors before the model is loaded
            found = [*rows.found]

    def done(job: Job, answers: Answers) -> Answered:
        from ..batch.files import answer_file, write_answers

        if out is None:
            return write_answers(job, source, answers, sys.stdout.buffer)
        again = {"overwrite": arguments.overwrite, "retry_errors": arguments.retry_errors}
        return answer_file(job, source, answers, out, form, **again)

    if (arguments.workers or 1) > 1:
        from ..batch.workers import Setup, Workers
        from ..runtime.bundle.demo_bundles import DEMOS, demo_bundle
        from ..runtime.bundle.reading import open_bundle

        loading = {**machine_of(arguments), "prepack": arguments.prepack}
        threads = loading.pop("threads")
        bundle = open_bundle(arguments.bundle or demo_bundle(arguments.demo or DEMOS[0]))
        setup = Setup(
            bundle=bundle.folder,
            loading=loading,
            template=template,
            options=options,
            constants=fields,
            columns=found,
        )
        with Workers(setup, arguments.workers, threads, _say) as workers:
            say_device(workers.ready, arguments.device)
            job = _job(arguments, bundle.manifest, template, source, options, workers.ready)
            answered = done(job, workers)
            for number, usage in enumerate(workers.usage(), 1):
                _say(f"worker {number}: {usage}")
    else:
        from ..batch.answering import Answering
        from ..batch.files import in_this_process
        from ..runtime.loading import load

        model = load(
            arguments.bundle,
            demo=arguments.demo,
            prepack=arguments.prepack,
            **machine_of(arguments),
        )
        say_device(model, arguments.device)
        answering = Answering(model, template, options)
        answering.check(fields, found)
        job = _job(arguments, model.bundle.manifest, template, source, options, model)
        answered = done(job, in_this_process(answering))
    count = f"{answered.rows} answer{'s' * (answered.rows != 1)}"
    there = f", {answered.before} of them from an earlier run" if answered.before else ""
    failed = f", {answered.failed} with an error" if answered.failed else ""
    _say(f"{out or 'standard output'} has {count}{there}{failed}")
    return 1 if answered.failed else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _job(
    arguments: argparse.Namespace,
    manifest: Manifest,
    template: Template,
    source: Source,
    options: dict[str, Any],
    computing: Model | Ready,
) -> Job:
    """Return the job; its hash has the arguments of ``load`` that change answers."""
    from ..batch.job import Job, changing

    loading = changing(arguments.kv_cache, computing.device, computing.kernels)
    return Job(manifest, template, source.columns, options, loading)


def _files(
    arguments: argparse.Namespace, template: Template, fields: dict[str, str]
) -> tuple[Source, Path | None, Form]:
    """Return the input, the output (None: standard output) and its form; raise for wrong ones."""
    from ..batch.columns import OUTPUT, Columns
    from ..batch.files import check_files
    from ..batch.forms import Form, form_of
    from ..batch.source import source_of

    first = template.fields[0]
    if first in fields:
        raise OptionError(f"--field {first} has no effect with --input: the file holds this field.")
    columns = Columns(
        template,
        text_column=arguments.text_column,
        output_column=OUTPUT if arguments.output_column is None else arguments.output_column,
        constants=fields,
    )
    if arguments.input == STANDARD:
        say_reading(sys.stdin)
        if sys.stdin is None:
            raise PromptError("There is no standard input: give --input FILE.")
        name, stream = Path("standard input"), sys.stdin.buffer
        format = arguments.input_format or "text"
        source = source_of(name, columns, format=format, stream=stream)
    else:
        source = source_of(arguments.input, columns, format=arguments.input_format)
    if source.format == "text" and arguments.text_column is not None:
        raise OptionError("--text-column has no effect with an input of plain text.")
    if arguments.output in (None, STANDARD):
        if sys.stdout is None:
            raise OptionError("There is no standard output: give --output FILE.")
        return source, None, Form("jsonl")
    out: Path = arguments.output
    form = form_of(out, arguments.output_format)
    if form.format == "parquet":
        from ..batch.parquet import check_pyarrow

        check_pyarrow(out)
    check_files(source.path, out)
    return source, out, form
