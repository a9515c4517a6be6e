"""The command ``edgeseq eval``: measures how well a bundle predicts a text, or targets of pairs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.bundle.demo_bundles import DEMOS
from ..runtime.errors import OptionError
from .flags import add_machine, integer, machine_of, say_device

if TYPE_CHECKING:
    from ..runtime.bundle.manifest import Manifest

EPILOG = """\
TEXT is a UTF-8 file. A GPT-2 bundle predicts it as one text. A T5 bundle predicts the targets of
pairs: each line contains a source, a tab and a target, or in a .jsonl file
{"source": "...", "target": "..."}. From such a .jsonl file a GPT-2 bundle predicts the targets, too:
each source is a prompt, and the target and the end of the text follow it.

The cross-entropy is the mean over all predicted tokens, in nats. The perplexity is its exponential.
A text is read in windows, and every token but the first is predicted once. For pairs, the bundle
also generates an answer to each source, with its default options and without sampling, and the
answers are compared with the targets.
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
    parser.add_argument(
        "--context",
        type=integer,
        metavar="N",
        help="tokens per window (default: the model's positions)",
    )
    parser.add_argument(
        "--stride",
        type=integer,
        metavar="N",
        help="tokens between the starts of two windows (default: half the context)",
    )
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="plot the cross-entropy by context length (needs the extra 'bench')",
    )
    parser.set_defaults(run=_eval)


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
    """Raise ``OptionError`` for a reference with other tokens than the bundle."""

    def traits(manifest: Manifest) -> dict[str, object]:
        tokenizer, sizes = manifest.tokenizer, manifest.dimensions
        digest = None if tokenizer.file is None else manifest.files[tokenizer.file].sha256
        return {
            "kind of model": manifest.kind,
            "vocabulary size": sizes.vocabulary,
            "number of positions": sizes.max_positions,
            "tokenizer": (digest, tokenizer.sentinels),
        }

    own, other = traits(manifest), traits(reference)
    for name, value in own.items():
        if value != other[name]:
            raise OptionError(
                f"The {name} of the reference differs from the bundle's: pass a reference that was "
                "made from the same checkpoint."
            )
