"""The command ``edgeseq compare``: size, speed, memory and quality of bundles in one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import OptionError
from .bench import FEWEST_NEW_TOKENS, FORMATS, add_retries, lengths, measured, whole
from .evaluate import add_data, check_answers, check_predictions, data_of
from .flags import add_machine, machine_of

if TYPE_CHECKING:
    from ..runtime.evaluation.answers import Answers
    from ..runtime.tasks.templates import Template

DESCRIPTION = """\
Measure bundles on this machine with your data, and print a table with a row for each: size, load
time, speed, memory, and quality beside a reference (needs the extra 'bench').
"""
EPILOG = """\
FILE is a text, or examples with a source and a target, or with the fields of --task and a target:
see `edgeseq eval --help`. The speeds are those of `edgeseq bench`: pp128 is the prefill of 128
tokens, tg128 the decoding of 128 tokens. Close other programs first.

Each bundle is compared with the reference on the same parts of the text, or the same examples.
The intervals come from a paired bootstrap with a fixed seed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq compare BUNDLE... --data FILE [options]"
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("bundle", nargs="+", type=Path, metavar="BUNDLE", help="folder of a bundle")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="text or examples to predict"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="BUNDLE",
        help="bundle that the others are compared with (default: the first one)",
    )
    add_data(parser)
    add_machine(parser)
    parser.add_argument(
        "--rounds",
        type=whole(0),
        metavar="N",
        default=5,
        help="rounds that measure speed and memory; 0 leaves them out (default: 5)",
    )
    add_retries(parser)
    parser.add_argument(
        "--prompt",
        type=lengths,
        default=[128, 512],
        metavar="N,N,...",
        help="lengths of the prompts whose prefill speed is measured (default: 128,512)",
    )
    parser.add_argument(
        "--new-tokens",
        type=whole(FEWEST_NEW_TOKENS),
        metavar="N",
        default=128,
        help="new tokens whose decode speed is measured (default: 128)",
    )
    parser.add_argument(
        "--output", "-o", choices=FORMATS, default="md", help="form of the table (default: md)"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FOLDER",
        help="write charts of quality by speed and by size to a folder (.png)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a page with the table, the charts and the machine (.html)",
    )
    parser.add_argument("--title", metavar="TEXT", help="title of the page")
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from ..runtime.bench.case import Lengths, Sweep, cases_of
    from ..runtime.bench.report import describe_machine, package_versions, report
    from ..runtime.comparison.columns import compare_output
    from ..runtime.comparison.page import page
    from ..runtime.comparison.report import CONTEXT, FIRST_TOKEN, compare_report, evaluate_all
    from ..runtime.evaluation.answers import write_predictions
    from .plots import charts_as_svg, check_charts, save_charts

    _check_files(arguments)
    if arguments.plot is not None or arguments.report is not None:
        check_charts(arguments.plot)
    given = data_of(arguments)
    folders, reference = _folders(arguments.bundle, arguments.reference)
    loading = machine_of(arguments)
    speed = None
    cases = cases_of(
        folders,
        Lengths(
            prompts=sorted({FIRST_TOKEN, *arguments.prompt}),
            contexts=[CONTEXT],
            new_tokens=arguments.new_tokens,
            fewest_new_tokens=FEWEST_NEW_TOKENS,
            repeats=3,
        ),
        Sweep(
            kv_caches=[loading["kv_cache"]],
            threads=[loading["threads"]],
            machines=[_machine(loading)],
        ),
    )
    evaluated, data = evaluate_all(
        folders,
        reference,
        arguments.data,
        partial(check_answers, arguments),
        given,
        loading,
        arguments.max_new_tokens,
    )
    if arguments.predictions is not None:
        answers: dict[str, Answers] = {
            bundle.described["name"]: bundle.readings.answers
            for bundle in evaluated
            if bundle.readings.answers is not None
        }
        write_predictions(arguments.predictions, data, answers)
    if arguments.rounds:
        speed = report(cases, measured(cases, arguments.rounds, arguments.retries))
    found = compare_report(
        evaluated,
        reference,
        speed,
        describe_machine(package_versions()),
        _told(arguments, given["template"], data),
        arguments.prompt,
        arguments.new_tokens,
    )
    if arguments.plot is not None:
        save_charts(found, arguments.plot)
    if arguments.report is not None:
        title = arguments.title or f"{found['reference']} and others, compared"
        text = page(found, charts_as_svg(found), title)
        arguments.report.write_text(text, encoding="utf-8", newline="\n")
    print(compare_output(found, arguments.output))
    return 0


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise ``OptionError`` before the measurement for files that cannot be written."""
    check_predictions(arguments.predictions)
    if arguments.title is not None and arguments.report is None:
        raise OptionError("--title has no effect without --report: give both.")
    if (path := arguments.report) is not None:
        if path.suffix not in (".html", ".htm"):
            raise OptionError(f"{path} does not end in .html: the report is a page in HTML.")
        if not path.parent.is_dir():
            raise OptionError(f"There is no folder {path.parent} for the report: create it first.")


def _folders(bundles: Sequence[Path], reference: Path | None) -> tuple[list[Path], int]:
    """Return the bundles, with the reference in front if it is none of them, and its index."""
    if reference is None:
        return list(bundles), 0
    paths = [bundle.resolve() for bundle in bundles]
    if reference.resolve() in paths:
        return list(bundles), paths.index(reference.resolve())
    return [reference, *bundles], 0


def _machine(loading: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``load`` for device and kernels that are not the defaults."""
    chosen = {name: loading[name] for name in ("device", "provider_options", "provider_library")}
    return chosen | ({} if loading["kernels"] == "auto" else {"kernels": loading["kernels"]})


def _told(arguments: argparse.Namespace, template: Template | None, data: Any) -> dict[str, Any]:
    """Return what the report says of the data."""
    return {
        "file": arguments.data.name,
        "task": None if template is None else template.name,
        "examples": len(data.examples),
        "bytes": data.passages.size_bytes,
        "context": data.passages.context,
        "stride": data.passages.stride,
        "max_new_tokens": arguments.max_new_tokens,
    }
