"""Runs of the command line: in this process through ``main``, or as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from edgeseq.cli.command_line import main
from tests.support.errors import CODE, assert_one_sentence
from tests.support.processes import TIME_LIMIT_S, WITHOUT_PACKAGES

Captured = pytest.CaptureFixture[str]

COMMAND = [sys.executable, "-m", "edgeseq.cli"]
PREFIX = "edgeseq: "
RUN_MAIN = """
from edgeseq.cli import main
sys.exit(main())
"""


def succeed(capsys: Captured, *arguments: object) -> str:
    """Return what a command prints; it ends with status 0 and has an empty standard error."""
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def failure(capsys: Captured, *arguments: object, progress: bool = False) -> str:
    """Return the error message of a command that ends with status 1, without ``edgeseq: ``.

    The message is one sentence, and nothing else is printed: standard output is empty and standard
    error one line. With ``progress`` other lines may come before it.
    """
    assert main([str(argument) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("\n")
    *others, last = printed.err.splitlines()
    assert progress or others == []
    assert not any(line.startswith(PREFIX) for line in others)
    assert "Traceback" not in printed.err
    assert last.startswith(PREFIX)
    message = last.removeprefix(PREFIX)
    assert_one_sentence(message, ending=CODE)
    return message


def wrong_usage(capsys: Captured, *arguments: object) -> str:
    """Return the first line on standard error of a command that ends with status 2.

    It says what is wrong in a sentence. The usage and a hint follow; standard output is empty.
    """
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    message, usage, hint = printed.err.splitlines()
    program, _, sentence = message.partition(": ")
    assert program.split() in (["edgeseq"], ["edgeseq", str(arguments[0])])
    assert sentence.endswith((".", "?"))
    assert usage.startswith(f"usage: {program}")
    assert hint == f"'{program} --help' explains more."
    return sentence


def help_text(capsys: Captured, *arguments: object) -> str:
    """Return what a command prints before it ends by ``SystemExit`` with status 0."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def process(
    *arguments: object, command: list[str] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own, in which every warning is an error.

    ``options`` are those of ``subprocess.run``; ``env`` is added to the environment.
    """
    environment = {**os.environ, "PYTHONWARNINGS": "error", **options.pop("env", {})}
    return subprocess.run(
        [*(command or COMMAND), *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        check=False,
        timeout=TIME_LIMIT_S,
        **{"stdout": subprocess.PIPE, **options},
    )


def process_without(
    packages: str, *arguments: object, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as ``process`` does, where ``packages`` (a,b) cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_PACKAGES + RUN_MAIN, packages]
    return process(*arguments, command=command, **options)
