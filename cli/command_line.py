"""The command line: finds the command, runs it and prints errors as one sentence.

A command is a module of this folder with ``add_arguments(parser)`` and an entry in ``COMMANDS``.
Only the module of the chosen command is imported. Only the commands join the stages (export,
quantize, runtime), and they import each stage when it is needed.

Exit status: 0; 1 with one sentence on standard error; 2 for wrong usage; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

from ..runtime.errors import EdgeseqError, reason


class Command(NamedTuple):
    """A command, as ``edgeseq --help`` lists it."""

    module: str
    help: str


COMMANDS = {
    "generate": Command("generate", "generate text from a prompt"),
    "run": Command("run", "run a task: summarize, translate, answer, classify"),
    "tasks": Command("tasks", "list the task templates, show one or copy it"),
    "export": Command("export", "turn a Hugging Face checkpoint into a bundle"),
    "quantize": Command("quantize", "quantize a bundle to fewer bits"),
    "info": Command("info", "show a bundle's manifest"),
    "bench": Command("bench", "measure speed and memory of bundles"),
    "eval": Command("evaluate", "measure how well a bundle predicts a text"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the console may lack a character
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            parsed = _parser(given).parse_args(given)
            status: int = parsed.run(parsed)
        finally:
            print(end="", flush=True)  # flush here: a closed pipe must raise now, not at exit
    except BrokenPipeError:
        # The rest of the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except EdgeseqError as error:
        print("edgeseq:", *str(error).splitlines(), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"edgeseq: {_sentence(error)}", file=sys.stderr)
        return 1
    return status


def _sentence(error: OSError) -> str:
    if not isinstance(error.filename, str):
        return f"{error.strerror or reason(error)}."
    place = Path(error.filename)
    if isinstance(error, FileNotFoundError):
        what = f"file {place}" if place.parent.is_dir() else f"folder {place.parent}"
        return f"There is no {what}."
    if isinstance(error, IsADirectoryError):
        return f"{place} is a folder: give a file."
    return f"{place}: {error.strerror}."


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser for the arguments ``given``; only the command in them gets its flags."""
    parser = argparse.ArgumentParser(
        prog="edgeseq",
        description="GPT-2 and T5 text generation on ONNX Runtime, without torch.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = next((word for word in given if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        of_command = commands.add_parser(name, help=command.help)
        if name == chosen:
            import_module(f"{__package__}.{command.module}").add_arguments(of_command)
    return parser


class _Version(argparse.Action):
    """The flag ``--version``; it reads the version late, because that searches all packages."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ..runtime import __version__

        print(f"edgeseq {__version__}")
        parser.exit()
