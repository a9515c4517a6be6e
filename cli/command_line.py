"""The command line: finds the command, runs it and prints errors as one sentence.

A command is a module of this folder with ``add_arguments(parser)`` and an entry in ``COMMANDS``.
``add_arguments`` sets ``run``, a function from the parsed arguments to the exit status; the parsed
arguments also hold ``usage_error``, a function that ends the program with a message and status 2.
Only the module of the chosen command is imported. Only the commands join the stages (train, export,
quantize, runtime), and they import each stage when it is needed.

Exit status: 0; 1 with one sentence on standard error; 2 for wrong usage; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from ..runtime.errors import DeviceError, EdgeseqError, is_out_of_memory, nearest, reason

PROGRAM = "edgeseq"
FULL = (errno.ENOSPC, errno.EDQUOT)
TAKE_TEXT = ("generate", "run")  # commands with a text as an argument


class Command(NamedTuple):
    """A command, as ``edgeseq --help`` lists it."""

    module: str
    help: str


COMMANDS = {
    "generate": Command("generate", "generate text from a prompt"),
    "run": Command("run", "run a task: summarize, translate, answer, classify"),
    "tasks": Command("tasks", "list the task templates, show one or copy it"),
    "serve": Command("serve", "serve models to clients of OpenAI's API"),
    "train": Command("train", "train or fine-tune a model on your data"),
    "export": Command("export", "turn a Hugging Face checkpoint into a bundle"),
    "quantize": Command("quantize", "quantize a bundle to fewer bits"),
    "info": Command("info", "show a bundle's manifest"),
    "doctor": Command("doctor", "describe this installation and try it, for a bug report"),
    "bench": Command("bench", "measure speed and memory of bundles"),
    "compare": Command("compare", "compare bundles: speed, size and quality in one table"),
    "eval": Command("evaluate", "measure how well a bundle predicts a text"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the console may lack a character
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            with _raising_interrupts():
                parsed = _parser(given).parse_args(given)
                status: int = parsed.run(parsed)
        finally:
            print(end="", flush=True)  # flush here: a closed pipe must raise now, not at exit
    except BrokenPipeError:
        # The rest of the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        print(file=sys.stderr)  # the terminal shows ^C on this line
        if interrupt.args:
            print("edgeseq:", interrupt, file=sys.stderr)
        return 130
    except Exception as error:
        if is_out_of_memory(error) and not isinstance(error, DeviceError):
            print(f"edgeseq: {_no_memory(error)}", file=sys.stderr)
        elif isinstance(error, EdgeseqError):
            print("edgeseq:", *str(error).splitlines(), file=sys.stderr)
        elif isinstance(error, OSError):
            print(f"edgeseq: {_sentence(error)}", file=sys.stderr)
        else:
            raise
        return 1
    return status


@contextmanager
def _raising_interrupts() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` in place of an error that Ctrl-C caused.

    C code that is interrupted may raise another error: an import of numpy, for example, raises
    ``ImportError``.
    """
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    takes_signals = is_default and threading.current_thread() is threading.main_thread()
    if takes_signals:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if interrupts:
            raise KeyboardInterrupt from error
        raise
    finally:
        if takes_signals:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _no_memory(error: Exception) -> str:
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (
        f"There is not enough memory ({reason(error)}): close other programs or raise the limit of "
        "memory, or use a smaller model, smaller batches or fewer processes."
    )


def _sentence(error: OSError) -> str:
    if error.errno in FULL:
        where = f" of {error.filename}" if isinstance(error.filename, str) else ""
        return f"The disk{where} is full: free some space and run the same command again."
    if not isinstance(error.filename, str):
        return f"{error.strerror or reason(error)}."
    place = Path(error.filename)
    if isinstance(error, FileNotFoundError):
        what = f"file {place}" if place.parent.is_dir() else f"folder {place.parent}"
        return f"There is no {what}."
    if isinstance(error, IsADirectoryError):
        return f"{place} is a folder: give a file."
    return f"{place}: {error.strerror}."


class Parser(argparse.ArgumentParser):
    """A parser whose errors begin with what is wrong, and name the nearest option."""

    learn: Callable[[Sequence[str]], None] | None = None
    """Called with the words to parse; adds the options that depend on them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; end the program with status 2 for an unknown option or a superfluous argument."""
        given = sys.argv[1:] if args is None else list(args)
        if self.learn is not None:
            self.learn(given)
        self.check_options(given)
        parsed, rest = super().parse_known_args(given, namespace)
        if rest:
            self._refuse(rest[0], given)
        return parsed, rest

    def check_options(self, given: Sequence[str]) -> None:
        """Refuse the first unknown option in ``given``.

        argparse itself would first complain about the arguments that an unknown option took.
        """
        is_value = False
        for word in given:
            if word == "--" or (word in COMMANDS and self.prog == PROGRAM):
                return
            name, equals, _ = word.partition("=")
            action = self._option_string_actions.get(name)  # argparse has no public way
            if is_value:
                is_value = False
            elif action is not None:
                is_value = action.nargs != 0 and not equals
            elif " " not in word and (name.startswith("--") or f"-{name}" in self.option_names()):
                self.error(self._unknown(name))

    def _refuse(self, word: str, given: Sequence[str]) -> NoReturn:
        """Exit because of a superfluous argument, or an unknown option of one letter."""
        after = given[given.index("--") :] if "--" in given else []
        is_option = len(word) > 1 and word[0] == "-" and word[1].isalpha() and " " not in word
        if is_option and word not in after:
            self.error(self._unknown(word))
        hint = "; put a text with spaces in quotes" if self.prog.endswith(TAKE_TEXT) else ""
        self.error(f"unexpected argument {word!r:.60}{hint}.")

    def option_names(self) -> list[str]:
        """Return the names of all options, such as ``--help`` and ``-b``."""
        return list(self._option_string_actions)

    def _unknown(self, name: str) -> str:
        close = f"-{name}" if f"-{name}" in self.option_names() else None
        close = close or nearest(name, self.option_names())
        if close is None and self.prog == PROGRAM:
            return f"there is no option {name:.60} here: options of a command follow the command."
        return f"there is no option {name:.60}" + (f"; did you mean {close}?" if close else ".")

    def error(self, message: str) -> NoReturn:
        """Print the message, the usage and where to read on; exit with status 2."""
        message = message.removeprefix("argument ")
        if message.endswith("expected one argument"):
            option = message.partition(":")[0].partition("/")[0]
            message += f" (write {option}=VALUE if the value begins with a dash)"
        end = "" if message.endswith((".", "?")) else "."
        self.exit(
            2,
            f"{self.prog}: {message}{end}\n{self.format_usage()}"
            f"'{self.prog} --help' explains more.\n",
        )


def _parser(given: list[str]) -> Parser:
    """Return the parser for the arguments ``given``; only the command in them gets its flags.

    ``help`` and ``help COMMAND`` in ``given`` become ``--help`` and ``COMMAND --help``.
    """
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [options]",
        description="Text generation with small models on ONNX Runtime, without torch.",
        epilog=f"'{PROGRAM} COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, prog=PROGRAM
    )
    if given[:1] == ["help"]:
        given[:] = [*given[1:2], "--help"]
    chosen = next((word for word in given if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        of_command = commands.add_parser(name, help=command.help)
        if name == chosen:
            of_command.set_defaults(usage_error=of_command.error)
            import_module(f"{__package__}.{command.module}").add_arguments(of_command)
    if not given:
        parser.print_help(sys.stderr)
        parser.exit(2)
    parser.check_options(given)
    if chosen is not None and chosen not in COMMANDS:
        hint = f"commands are {', '.join(COMMANDS)}."
        if " " in chosen:
            hint = f"did you mean {PROGRAM} generate {chosen[:20]!r}...?"
        elif close := nearest(chosen, COMMANDS):
            hint = f"did you mean {close}?"
        parser.error(f"there is no command {chosen!r:.60}; {hint}")
    return parser


class _Version(argparse.Action):
    """The flag ``--version``; it reads the version late, because that searches all packages."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ..runtime import __version__

        print(f"edgeseq {__version__}")
        parser.exit()
