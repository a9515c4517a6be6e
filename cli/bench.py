"""The command ``edgeseq bench``: measures bundles side by side on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.bundle.demo_bundles import DEMOS, demo_bundle
from ..runtime.ort.cpu import MAX_THREADS
from ..runtime.progress import rarely
from .flags import KERNELS, KERNELS_HELP, add_provider, provider_of

if TYPE_CHECKING:
    from ..runtime.bench.case import Case
    from ..runtime.bench.rounds import Round

FORMATS = ("md", "csv", "json", "jsonl")
LARGEST = 1 << 20  # largest number that a flag accepts
FEWEST_NEW_TOKENS = 16  # fewer steps give no reliable speed
DESCRIPTION = """\
Compare the load time, time to first token, decode speed, memory bandwidth and peak memory of
bundles (needs the extra 'bench'). Each measurement runs in its own process after a warm-up, and
the bundles are measured in alternating order. Close other programs first, because their load
changes the figures. The weights of a small model stay in the processor's caches, which may be
faster than memory.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq bench (BUNDLE... | --demo NAME) [options]"
    parser.description = DESCRIPTION
    parser.add_argument("bundle", nargs="*", type=Path, metavar="BUNDLE", help="folder of a bundle")
    parser.add_argument(
        "--demo",
        action="append",
        choices=DEMOS,
        default=[],
        help="also measure this demo model; may be given several times",
    )
    parser.add_argument(
        "--kv-cache",
        action="extend",
        type=_words,
        metavar="DTYPE,...",
        help="measure each bundle with each of these KV caches: float32, int8 or float16 (default: "
        "the bundle's, float16 on CUDA)",
    )
    parser.add_argument(
        "--device",
        action="append",
        metavar="DEVICE",
        help="measure each bundle on this device, for example cuda:1; may be given several times "
        "(default: cpu). Peak memory is main memory, not device memory",
    )
    add_provider(parser)
    parser.add_argument(
        "--kernels",
        action="append",
        choices=KERNELS,
        help=f"{KERNELS_HELP}; may be given several times, to measure each bundle with each",
    )
    count = whole(1)
    parser.add_argument(
        "--rounds", type=count, metavar="N", default=5, help="number of rounds (default: 5)"
    )
    parser.add_argument(
        "--repeats",
        type=count,
        metavar="N",
        default=3,
        help="measurements of each time to first token per round (default: 3)",
    )
    _add_lengths(parser)
    add_retries(parser)
    parser.add_argument(
        "--output",
        "-o",
        choices=FORMATS,
        help="print Markdown, CSV or JSON Lines with a row for each speed, or one JSON object",
    )
    parser.add_argument("--json", action="store_true", help="the same as -o json")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="plot the time per token by context length (needs the extra 'bench')",
    )
    parser.set_defaults(run=_bench)


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    add_sweep(parser)
    parser.add_argument(
        "--prompt",
        "--prompt-lengths",
        dest="prompt_lengths",
        type=lengths,
        default=[32, 128, 512],
        metavar="N,N,...",
        help="prompt lengths for the time to first token and the prefill speed; "
        "with an encoder, source lengths (default: 32,128,512)",
    )
    parser.add_argument(
        "--contexts",
        type=lengths,
        default=[32, 900],
        metavar="N,N,...",
        help="tokens in the KV cache when the decode speed is measured (default: 32,900)",
    )
    parser.add_argument(
        "--new-tokens",
        type=whole(FEWEST_NEW_TOKENS),
        metavar="N",
        default=128,
        help="new tokens after each context, or as many as the model's positions allow "
        "(default: 128)",
    )


def whole(at_least: int, at_most: int = LARGEST) -> Callable[[str], int]:
    """Return the ``type`` of an argument that is an integer within limits."""

    def limited(text: str) -> int:
        if text.isascii() and text.isdigit() and at_least <= (value := int(text)) <= at_most:
            return value
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {at_least} to {at_most}")

    return limited


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the flags for several numbers of threads, rows and beams."""
    for name, at_most, text in (
        ("threads", MAX_THREADS, "numbers of threads (default: usable physical cores)"),
        ("batch", LARGEST, "numbers of prompts that are generated at once (default: 1)"),
        ("beams", LARGEST, "numbers of beams (default: 1)"),
    ):
        parser.add_argument(
            f"--{name}",
            type=partial(lengths, at_most=at_most),
            metavar="N,N,...",
            help=f"measure each bundle with each of these {text}",
        )


def add_retries(parser: argparse.ArgumentParser) -> None:
    """Add the flag for measurements that other programs disturbed."""
    parser.add_argument(
        "--retries",
        type=whole(0),
        metavar="N",
        default=2,
        help="how often a measurement is repeated while other programs use more than 5 %% of the "
        "processors; what stays disturbed is marked (default: 2)",
    )


def lengths(text: str, at_most: int = LARGEST) -> list[int]:
    """Return the numbers of a comma-separated list, sorted and without duplicates."""
    return sorted(set(map(whole(1, at_most), text.split(","))))


def _words(text: str) -> list[str]:
    return text.split(",")


def _bench(arguments: argparse.Namespace) -> int:
    if not arguments.bundle and not arguments.demo:
        arguments.usage_error("give the folder of a bundle, or --demo NAME")
    from ..runtime.bench.case import Lengths, Sweep, cases_of
    from ..runtime.bench.formats import bench_output
    from ..runtime.bench.report import report
    from ..runtime.bench.table import lines
    from .plots import check_plot, plot_bench

    check_plot(arguments.plot)
    asked = Lengths(
        prompts=arguments.prompt_lengths,
        contexts=arguments.contexts,
        new_tokens=arguments.new_tokens,
        fewest_new_tokens=FEWEST_NEW_TOKENS,
        repeats=arguments.repeats,
    )
    sweep = Sweep(
        kv_caches=arguments.kv_cache or [None],
        threads=arguments.threads or [None],
        rows=arguments.batch or [1],
        beams=arguments.beams or [1],
        machines=_machines(arguments),
    )
    folders = [*arguments.bundle, *map(demo_bundle, arguments.demo)]
    cases = cases_of(folders, asked, sweep)
    result = report(cases, measured(cases, arguments.rounds, arguments.retries))
    if arguments.plot is not None:
        plot_bench(result, arguments.plot)
    kind = "json" if arguments.json else arguments.output
    print("\n".join(lines(result)) if kind is None else bench_output(result, kind))
    return 0


def measured(cases: Sequence[Case], rounds: int, retries: int) -> list[Round]:
    """Return the rounds of measurements, with progress on standard error."""
    from ..runtime.bench.machine import read_bandwidth
    from ..runtime.bench.rounds import measure_in_process, measure_rounds

    def bandwidth(case: Case) -> float:
        threads, size_bytes = case.reads
        return read_bandwidth(threads, size_bytes=size_bytes)

    return list(
        measure_rounds(
            cases,
            rounds,
            bandwidth=bandwidth,
            measure=measure_in_process,
            progress=rarely(_show),
            retries=retries,
        )
    )


def _machines(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the keyword arguments of ``load`` for each device and each choice of kernels.

    If there are several devices, the CPU does not get the execution provider's arguments.
    """
    names = list(dict.fromkeys(arguments.device or ["cpu"]))
    provider = provider_of(arguments)
    chosen: list[dict[str, Any]] = [{"kernels": name} for name in arguments.kernels or []]
    return [
        {"device": name, **(provider if name != "cpu" or names == ["cpu"] else {}), **kernels}
        for name in names
        for kernels in chosen or [{}]
    ]


def _show(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
