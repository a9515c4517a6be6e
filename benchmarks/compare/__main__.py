"""Measure edgeseq beside other programs.

python -m benchmarks.compare setup
python -m benchmarks.compare run --rounds 7 --out benchmarks/results/compare.jsonl
python -m benchmarks.compare report benchmarks/results/compare.jsonl
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.compare.models import Workplace
from benchmarks.compare.peers import OURS, Peer, read_peers
from benchmarks.compare.workloads import BITS, WORKLOADS, Workload

ALWAYS = (OURS, "convert_generation", "ctranslate2", "llama_cpp")  # the strongest: in every run


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="install the programs and convert the models")
    run = commands.add_parser("run", help="the same, then measure")
    for command in (setup, run):
        add_choices(command)
    run.add_argument("--rounds", type=int, default=7)
    run.add_argument("--threads", type=int, default=2)
    run.add_argument("--out", type=Path, required=True, help="JSON lines; appended to")
    report = commands.add_parser("report", help="a table and a plot of what was measured")
    report.add_argument("results", type=Path, nargs="+")
    report.add_argument("--table", type=Path, help="Markdown to write; default: standard output")
    report.add_argument("--plot", type=Path, help="PNG to write; one a machine")
    arguments = parser.parse_args()
    if arguments.command == "report":
        make_report(arguments)
    else:
        compare(parser, arguments)


def add_choices(command: argparse.ArgumentParser) -> None:
    """Options that say what is compared."""
    command.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    command.add_argument("--peers", default=",".join(ALWAYS), help="names, or 'all'")
    command.add_argument("--workloads", default="*", help="patterns, such as 'gpt2/*,t5-base/*'")
    command.add_argument("--bits", default=",".join(BITS))
    command.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="MODEL=FOLDER",
        help="a real checkpoint in place of random weights: gpt2, t5-small or t5-base",
    )


def compare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Set up and, if asked for, measure."""
    from benchmarks.compare.preparing import prepare  # it needs psutil
    from benchmarks.compare.running import run

    everyone = read_peers()
    peers = chosen_peers(parser, arguments.peers, everyone)
    workloads = chosen_workloads(parser, arguments.workloads)
    bits = arguments.bits.split(",")
    if unknown := set(bits) - set(BITS):
        parser.error(f"--bits has {sorted(unknown)}; there are {', '.join(BITS)}")
    place = Workplace(
        arguments.work.resolve(),
        {name: tool for peer in everyone.values() for name, tool in peer.tools.items()},
        chosen_checkpoints(parser, arguments.checkpoint),
    )
    if arguments.command == "setup":
        _, failures = prepare(peers, workloads, place, bits)
        if failures:
            names = ", ".join(failure.title for failure in failures)
            sys.exit(f"Not set up: {names}. All else is.")
        return
    failures = run(
        peers,
        workloads,
        place,
        rounds=arguments.rounds,
        threads=arguments.threads,
        bits=bits,
        out=arguments.out,
    )
    for failure in failures:
        print(f"Not measured: {failure.title}. {failure.reason}")


def chosen_peers(
    parser: argparse.ArgumentParser, names: str, everyone: dict[str, Peer]
) -> list[Peer]:
    """The programs that ``--peers`` names."""
    wanted = list(everyone) if names == "all" else names.split(",")
    if unknown := [name for name in wanted if name not in everyone]:
        parser.error(f"--peers has {unknown[0]}; there are {', '.join(everyone)}")
    return [everyone[name] for name in wanted]


def chosen_workloads(parser: argparse.ArgumentParser, patterns: str) -> list[Workload]:
    """The workloads that ``--workloads`` names."""
    found = [w for w in WORKLOADS if any(fnmatchcase(w.name, p) for p in patterns.split(","))]
    if not found:
        parser.error(f"--workloads matches none of {', '.join(w.name for w in WORKLOADS)}")
    return found


def chosen_checkpoints(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, Path]:
    """The folders that ``--checkpoint`` names."""
    found = {}
    models = {workload.model for workload in WORKLOADS}
    for item in given:
        model, _, folder = item.partition("=")
        if model not in models or not Path(folder).is_dir():
            parser.error(f"--checkpoint {item}: give one of {', '.join(sorted(models))}=FOLDER")
        found[model] = Path(folder).resolve()
    return found


def make_report(arguments: argparse.Namespace) -> None:
    """Write the table and the plot."""
    from benchmarks.compare.overview import overview
    from benchmarks.compare.summary import by_machine, read_lines, summarize
    from benchmarks.compare.table import markdown

    summaries = [summarize(lines) for lines in by_machine(read_lines(arguments.results))]
    reports = [f"{overview(summary)}\n\n{markdown(summary)}" for summary in summaries]
    if len(reports) > 1:
        reports = [f"## Machine {i}\n\n{report}" for i, report in enumerate(reports, 1)]
    text = "\n".join(reports)
    if arguments.table:
        arguments.table.write_text(text, encoding="utf-8")
    else:
        print(text)
    if arguments.plot:
        from benchmarks.compare.plot import draw  # it needs matplotlib

        for i, summary in enumerate(summaries, 1):
            plot = arguments.plot
            draw(summary, plot if i == 1 else plot.with_stem(f"{plot.stem}_{i}"))


if __name__ == "__main__":
    main()
