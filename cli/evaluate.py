"""The command ``edgeseq eval``: measures how well a bundle predicts a text, or targets of pairs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.bundle.demo_bundles import DEMOS
from ..runtime.errors import OptionError
from .flags import add_machine, machine_of, say_device

if TYPE_CHECKING:
    from ..runtime.bundle.manifest import Manifest

EPILOG = """\
TEXT is in UTF-8. A GPT-2 is evaluated on it as one text, a T5 on pairs: a line holds a source, a
tab and the target, or in a .jsonl file {"source": "...", "target": "..."}.

cross-entropy is the mean over all predicted tokens, and perplexity its exponential. A text is read
in windows: its first token is not predicted, each other once. Answers to sources are generated
greedily.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq eval (BUNDLE | --demo NAME) TEXT [options]"
    parser.description = "Measure how well a bundle predicts a text, or the targets of pairs."
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    text = parser.add_argument("text", type=Path, metavar="TEXT", help="file to predict")
    # With --demo there is only one path. nargs="?" would not allow options between two paths.
    text.required = False
    parser.add_argument("--demo", choices=DEMOS, help="edgeseq's own model, instead of BUNDLE")
    parser.add_argument(
        "--reference", type=Path, help="bundle to compare with, as a rule fp32 (on the CPU)"
    )
    parser.add_argument("--context", type=int, help="tokens read at once (default: all positions)")
    parser.add_argument(
        "--stride", type=int, help="tokens from one window to the next (default: half the context)"
    )
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the loss by position (extra 'bench')"
    )
    parser.set_defaults(run=_eval, usage_error=parser.error)


def _eval(arguments: argparse.Namespace) -> int:
    from ..runtime.evaluation.report import measure_report, report_lines
    from ..runtime.loading import load
    from ..runtime.request.passages import read_passages
    from .plots import check_plot, plot_eval

    check_plot(arguments.plot)
    bundle, text = arguments.bundle, arguments.text
    if arguments.demo is not None:
        if text is not None:
            arguments.usage_error("argument --demo: not allowed with BUNDLE")
        bundle, text = None, bundle
    elif text is None:
        arguments.usage_error("the following arguments are required: TEXT")
    model = load(bundle, demo=arguments.demo, **machine_of(arguments))
    say_device(model, arguments.device)
    reference = None
    if arguments.reference is not None:
        reference = load(arguments.reference, threads=arguments.threads)
        _check_comparable(model.bundle.manifest, reference.bundle.manifest)
    passages = read_passages(
        text,
        model.bundle.manifest,
        model.tokenizer,
        context=arguments.context,
        stride=arguments.stride,
    )
    report = {
        "bundle": str(model.bundle.folder),
        "recipe": model.bundle.manifest.quantization.recipe,
        "kv_cache": arguments.kv_cache or model.bundle.manifest.kv_cache.dtype,
        "text": str(text),
        **measure_report(model, reference, passages),
    }
    if arguments.plot is not None:
        plot_eval(report, arguments.plot)
    print(json.dumps(report) if arguments.json else "\n".join(report_lines(report)))
    return 0


def _check_comparable(manifest: Manifest, reference: Manifest) -> None:
    """Raise ``OptionError`` for a reference whose tokens differ from the bundle's."""

    def traits(manifest: Manifest) -> dict[str, object]:
        tokenizer, sizes = manifest.tokenizer, manifest.dimensions
        digest = None if tokenizer.file is None else manifest.files[tokenizer.file].sha256
        return {
            "kind of model": manifest.kind,
            "vocabulary": sizes.vocabulary,
            "number of positions": sizes.max_positions,
            "tokenizer": (digest, tokenizer.sentinels),
        }

    own, other = traits(manifest), traits(reference)
    for name, value in own.items():
        if value != other[name]:
            raise OptionError(
                f"The reference has another {name} than the bundle: give a bundle of the same "
                "checkpoint."
            )
