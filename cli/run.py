"""The command ``edgeseq run``: runs a task on a text, or on the rows of a file."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from ..runtime.errors import OptionError, PromptError
from ..runtime.text.input_lines import without_mark
from .cluster_run import add_cluster, answer_on_cluster, check_cluster_usage
from .file_run import add_files, answer_rows, check_usage
from .flags import (
    FLAGS,
    add_model,
    add_options,
    add_sampling,
    machine_of,
    read_prompt,
    say_device,
    say_truncated,
)

if TYPE_CHECKING:
    from ..runtime.tasks.runs import TaskResult
    from ..runtime.tasks.templates import Template

OPTIONS = [name for name in FLAGS if name != "num_return_sequences"]  # a task has one answer
RUN_EPILOG = """\
TASK is one that `edgeseq tasks` lists, or a template of your own (.toml). A file of inputs is a
table (.jsonl, .csv, .tsv or .parquet, also .gz) with a column for each field of the task, or has a
text on each line. Other columns are kept in the output. After an interruption, run the same command
again: it continues where the output ends. With --ray, input and output are folders of Parquet or
JSON Lines.

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
        "text",
        type=without_mark,
        metavar="TEXT",
        help="the text; from standard input if absent or -",
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
    add_files(parser.add_argument_group("files"))
    add_cluster(parser.add_argument_group("clusters"))
    options = parser.add_argument_group("options that override the template's")
    add_options(options, OPTIONS)
    add_sampling(options)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..runtime.loading import load
    from ..runtime.tasks.runs import check_languages, run_all
    from ..runtime.tasks.templates import read_template

    template = read_template(arguments.task)
    fields = _fields(arguments.field, template)
    options = {name: getattr(arguments, name) for name in (*OPTIONS, "do_sample")}
    options = {name: value for name, value in options.items() if value is not None}
    check_usage(arguments)
    check_cluster_usage(arguments)
    if arguments.ray is not None:
        if template.fields[0] in fields:
            raise OptionError(f"--field {template.fields[0]} has no effect with --ray.")
        return answer_on_cluster(arguments, template, fields, options)
    if arguments.input is not None:
        return answer_rows(arguments, template, fields, options)
    first = template.fields[0]
    if first in fields and arguments.text is not None:
        raise OptionError(f"--field {first} has no effect with a text: give one of them.")
    model = load(arguments.bundle, demo=arguments.demo, **machine_of(arguments))
    say_device(model, arguments.device)
    run_all(model, template, [], options)  # a bad value is an error before the text is read
    check_languages(model, template, fields)
    if first not in fields and (arguments.text is not None or first not in template.defaults):
        given = arguments.text
        fields[first] = read_prompt(sys.stdin) if given in (None, "-") else given
        if not fields[first]:
            raise PromptError(f"The text is empty: give one, or --field {first}= for an empty one.")
    [result] = run_all(model, template, [fields], options)
    _print(result, arguments.json)
    say_truncated(result.generation.truncated_tokens)
    return 0


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
        fields[name] = without_mark(text)
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
