"""The command ``edgeseq eval``: measures how well a bundle predicts a text, or targets of pairs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.bundle.demo_bundles import DEMOS
from ..runtime.errors import OptionError
from .flags import add_machine, integer, machine_of, say_device

if TYPE_CHECKING:
    from ..runtime.evaluation.data import Data

EPILOG = """\
TEXT is a UTF-8 file. A GPT-2 bundle predicts it as one text. A T5 bundle predicts the targets of
pairs: each line contains a source, a tab and a target, or in a .jsonl file
{"source": "...", "target": "..."}. A GPT-2 bundle predicts the targets of such a .jsonl file, too:
each source is a prompt, and the target and the end of the text follow it. A .csv, .tsv or .parquet
file has the columns source and target; --column gives other names. With --task, a row has the
fields of the task and a target.

The cross-entropy is the mean over all predicted tokens, in nats. The perplexity is its exponential.
A text is read in windows, and every token but the first is predicted once. For pairs and tasks, the
bundle also generates an answer to each source, with its default options and without sampling, and
metrics compare the answers with the targets.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq eval (BUNDLE | --demo NAME) TEXT [options]"
    parser.description = "Measure how well a bundle predicts a text, or the targets of pairs."
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    text = parser.add_argument("text", type=Path, metavar="TEXT", help="text file to predict")
    # With --demo there is only one path. nargs="?" would not allow options between two paths.
    text.required = False
    parser.add_argument("--demo", choices=DEMOS, help="demo model to evaluate instead of BUNDLE")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="BUNDLE",
        help="bundle to compare with, usually the fp32 bundle; it runs on the CPU",
    )
    add_data(parser)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="plot the cross-entropy by context length (needs the extra 'bench')",
    )
    parser.set_defaults(run=_eval)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the flags for windows of a text, and for examples, their metrics and their answers."""
    parser.add_argument(
        "--context",
        type=integer,
        metavar="N",
        help="tokens per window of a text (default: the model's positions)",
    )
    parser.add_argument(
        "--stride",
        type=integer,
        metavar="N",
        help="tokens between the starts of two windows (default: half the context)",
    )
    parser.add_argument(
        "--task", metavar="TASK", help="task of the examples: a name, or a template (.toml)"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="the column of source, target or a field of the task, if its name is another; may be "
        "given several times",
    )
    parser.add_argument(
        "--metric",
        action="extend",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,...",
        help="metrics of the answers (default: metrics that fit the task); some need the extra "
        "'metrics'",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=integer,
        metavar="N",
        help="limit of new tokens of an answer (default: that of the task or the bundle, or else "
        "twice the longest target)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write the answers beside the targets to a file (.jsonl)",
    )


def data_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``read_data`` from the flags; ``OptionError`` for bad ones."""
    from ..runtime.tasks.templates import read_template

    columns = {}
    for item in arguments.column:
        field, equals, name = item.partition("=")
        if not field or not equals or not name:
            raise OptionError(f"--column {item!r:.60}: give FIELD=NAME.")
        columns[field] = name
    return {
        "template": None if arguments.task is None else read_template(arguments.task),
        "columns": columns,
        "context": arguments.context,
        "stride": arguments.stride,
    }


def check_answers(arguments: argparse.Namespace, data: Data) -> list[str]:
    """Return the names of the metrics; raise ``OptionError`` for flags that have no effect."""
    from ..runtime.evaluation.answers import metrics_of
    from ..runtime.evaluation.metrics import check_metrics

    if not data.examples:
        for name in ("metric", "max_new_tokens", "predictions"):
            if getattr(arguments, name) not in (None, []):
                raise OptionError(
                    f"--{name.replace('_', '-')} has no effect with a text: give examples with a "
                    "source and a target, or a task."
                )
        return []
    return check_metrics(arguments.metric or metrics_of(data))


def check_predictions(path: Path | None) -> None:
    """Raise ``OptionError`` before the measurement for a path that predictions cannot have."""
    if path is None:
        return
    if path.suffix != ".jsonl":
        raise OptionError(f"{path} does not end in .jsonl: predictions are JSON Lines.")
    if not path.parent.is_dir():
        raise OptionError(f"There is no folder {path.parent} for predictions: create it first.")


def _eval(arguments: argparse.Namespace) -> int:
    from ..runtime.evaluation.answers import write_predictions
    from ..runtime.evaluation.data import read_data
    from ..runtime.evaluation.quality import difference_of
    from ..runtime.evaluation.report import measure_data, report_lines
    from ..runtime.loading import load
    from .plots import check_plot, plot_eval

    check_plot(arguments.plot)
    check_predictions(arguments.predictions)
    bundle, text = arguments.bundle, arguments.text
    if arguments.demo is not None:
        if text is not None:
            arguments.usage_error("argument --demo: not allowed with BUNDLE")
        bundle, text = None, bundle
    elif text is None:
        arguments.usage_error("the following arguments are required: TEXT")
    given = data_of(arguments)
    model = load(bundle, demo=arguments.demo, **machine_of(arguments))
    say_device(model, arguments.device)
    reference = None
    if arguments.reference is not None:
        reference = load(arguments.reference, threads=arguments.threads)
        if what := difference_of(model.bundle.manifest, reference.bundle.manifest):
            raise OptionError(
                f"The {what} of the reference differs from the bundle's: pass a reference that was "
                "made from the same checkpoint."
            )
    data = read_data(text, model, **given)
    metrics = check_answers(arguments, data)
    measured, readings = measure_data(model, reference, data, metrics, arguments.max_new_tokens)
    report = {
        "bundle": str(model.bundle.folder),
        "recipe": model.bundle.manifest.quantization.recipe,
        "kv_cache": arguments.kv_cache or model.bundle.manifest.kv_cache.dtype,
        "text": str(text),
        **measured,
    }
    if arguments.predictions is not None and readings.answers is not None:
        answers = {model.bundle.folder.absolute().name: readings.answers}
        write_predictions(arguments.predictions, data, answers)
    if arguments.plot is not None:
        plot_eval(report, arguments.plot)
    print(json.dumps(report) if arguments.json else "\n".join(report_lines(report)))
    return 0
