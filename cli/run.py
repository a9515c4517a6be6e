"""The command ``edgeseq run``: runs a task on a text, or on the rows of a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import OptionError, PromptError
from .flags import (
    FLAGS,
    add_model,
    add_options,
    add_sampling,
    integer,
    machine_of,
    read_prompt,
    say_device,
    say_reading,
)

if TYPE_CHECKING:
    from ..batch.files import Answered, Answers
    from ..batch.forms import Form
    from ..batch.job import Job
    from ..batch.source import Source
    from ..batch.workers import Ready
    from ..runtime.bundle.manifest import Manifest
    from ..runtime.model import Model
    from ..runtime.tasks.runs import TaskResult
    from ..runtime.tasks.templates import Template

STANDARD = Path("-")  # standard input or output instead of a file
INPUT_FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
OUTPUT_FORMATS = ("jsonl", "csv", "tsv", "parquet")
OF_FILES = ("overwrite", "retry_errors", "text_column", "input_format", "output_format")
OPTIONS = [name for name in FLAGS if name != "num_return_sequences"]  # a task has one answer
RUN_EPILOG = """\
TASK is one that `edgeseq tasks` lists, or a template of your own (.toml). A file of inputs is a
table (.jsonl, .csv, .tsv or .parquet, also .gz) with a column for each field of the task, or has a
text on each line. Other columns are kept in the output. After an interruption, run the same command
again: it continues where the output ends.

The task translation takes --field source_language=NAME and --field target_language=NAME, with names
such as French, or codes. `edgeseq info` lists a bundle's languages.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq run TASK [TEXT | --input FILE [--output FILE]] [options]"
    parser.description = "Do a task with the model of a bundle, on a text or on the rows of a file."
    parser.epilog = RUN_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "task", metavar="TASK", help="name of a task, or path of a template (.toml)"
    )
    text = parser.add_argument(
        "text", metavar="TEXT", help="the text; from standard input if absent or -"
    )
    text.required = False  # nargs="?" would not allow options between the two arguments
    add_model(parser)
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="another field of the task, such as context=...; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    _add_files(parser.add_argument_group("files"))
    options = parser.add_argument_group("options that override the template's")
    add_options(options, OPTIONS)
    add_sampling(options)
    parser.set_defaults(run=_run)


def _add_files(files: Any) -> None:
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
        "--output-column", default="output", metavar="NAME", help="column for the answers"
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
        default=1,
        metavar="N",
        help="number of processes, which share the threads (default: 1)",
    )
    files.add_argument("--overwrite", action="store_true", help="replace the output file")
    files.add_argument(
        "--retry-errors",
        action="store_true",
        help="compute the rows of the output again that have an error",
    )


def _run(arguments: argparse.Namespace) -> int:
    from ..runtime.loading import load
    from ..runtime.tasks.runs import check_languages, run_all
    from ..runtime.tasks.templates import read_template

    template = read_template(arguments.task)
    fields = _fields(arguments.field, template)
    options = {name: getattr(arguments, name) for name in (*OPTIONS, "do_sample")}
    options = {name: value for name, value in options.items() if value is not None}
    _check_usage(arguments)

    def loaded() -> Model:
        model = load(arguments.bundle, demo=arguments.demo, **machine_of(arguments))
        say_device(model, arguments.device)
        return model

    if arguments.input is not None:
        return _answer_file(arguments, template, fields, options, loaded)
    first = template.fields[0]
    if first in fields and arguments.text is not None:
        raise OptionError(f"--field {first} has no effect with a text: give one of them.")
    model = loaded()
    run_all(model, template, [], options)  # a bad value is an error before the text is read
    check_languages(model, template, fields)
    if first not in fields and (arguments.text is not None or first not in template.defaults):
        given = arguments.text
        fields[first] = read_prompt(sys.stdin) if given in (None, "-") else given
    _print(run_all(model, template, [fields], options)[0], arguments.json)
    return 0


def _check_usage(arguments: argparse.Namespace) -> None:
    if arguments.workers < 1:
        arguments.usage_error(f"--workers is {arguments.workers}; it must be at least 1")
    if arguments.input is None:
        if arguments.workers > 1:
            arguments.usage_error("--workers has no effect without --input")
        if arguments.output is not None:
            arguments.usage_error("--output needs --input")
        for name in OF_FILES:
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


def _answer_file(
    arguments: argparse.Namespace,
    template: Template,
    fields: dict[str, str],
    options: dict[str, Any],
    loaded: Callable[[], Model],
) -> int:
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

    if arguments.workers > 1:
        from ..batch.workers import Setup, Workers
        from ..runtime.bundle.demo_bundles import DEMOS, demo_bundle
        from ..runtime.bundle.reading import open_bundle

        loading = machine_of(arguments)
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

        model = loaded()
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
    from ..batch.job import Job

    kernels = "stock" if computing.kernels == "stock" else "native"
    loading = {"kv_cache": arguments.kv_cache, "device": computing.device, "kernels": kernels}
    others = {"kv_cache": None, "device": "cpu", "kernels": "stock"}
    return Job(manifest, template, source.columns, options, dict(loading.items() - others.items()))


def _files(
    arguments: argparse.Namespace, template: Template, fields: dict[str, str]
) -> tuple[Source, Path | None, Form]:
    """Return the input, the output (None: standard output) and its form; raise for wrong ones."""
    from ..batch.columns import Columns
    from ..batch.files import check_files
    from ..batch.forms import Form, form_of
    from ..batch.source import source_of

    first = template.fields[0]
    if first in fields:
        raise OptionError(f"--field {first} has no effect with --input: the file holds this field.")
    columns = Columns(
        template,
        text_column=arguments.text_column,
        output_column=arguments.output_column,
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
        return source, None, Form("jsonl")
    out: Path = arguments.output
    form = form_of(out, arguments.output_format)
    if form.format == "parquet":
        from ..batch.parquet import check_pyarrow

        check_pyarrow(out)
    check_files(source.path, out)
    return source, out, form


def _fields(given: list[str], template: Template) -> dict[str, str]:
    fields: dict[str, str] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or name not in template.fields:
            raise OptionError(
                f"--field {item!r:.60} is not a field of the task {template.name}: give NAME=TEXT, "
                f"where NAME is {' or '.join(template.fields)}."
            )
        if name in fields:
            raise OptionError(f"--field {name} is given twice.")
        fields[name] = text
    return fields


def _print(result: TaskResult, as_json: bool) -> None:
    if as_json:
        found = {"output": result.text, "probabilities": result.probabilities}
        print(json.dumps({name: value for name, value in found.items() if value is not None}))
    elif result.probabilities is None:
        print(result.text)
        if not result.text:
            print("The answer is empty: is this model made for the task?", file=sys.stderr)
    else:
        for label, probability in result.probabilities.items():
            print(f"{probability:.4f}  {label}")
