"""A helper ends when its app ends, however the app ends and whatever the helper is doing."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import poll
from tests.support.stdio_helper import ENDLESS, SERVE

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="processes are watched by their descriptors, on Linux"
)
LIMIT_S = 30
STDIO = [*SERVE, "--stdio", "--demo"]
HTTP = [*SERVE, "--demo", "--port", "0"]
# An app that starts a command, sends it a line, passes on its output and is killed some time. The
# word "kept": another process has the other end of the command's standard input, too.
APP = """
import json, subprocess, sys

kept, line, *command = sys.argv[1:]
helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
others = []
if kept == "kept":
    others = [subprocess.Popen(["sleep", "600"], stdin=helper.stdin).pid]
print(json.dumps({"helper": helper.pid, "others": others}), flush=True)
if line:
    helper.stdin.write(line.encode() + b"\\n")
    helper.stdin.flush()
for answer in helper.stdout:
    print(answer.decode(), end="", flush=True)
sys.stdin.read()
"""
REQUEST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "generate", "params": ENDLESS})
LONG = {"model": "demo-t5", "prompt": "pronounce: a", "max_tokens": 2000, "stream": True}


class App:
    """An app that runs, and its helper."""

    def __init__(self, process: subprocess.Popen[str], helper: int) -> None:
        self.process = process
        self._helper = os.pidfd_open(helper)

    def next(self) -> Any:
        """Return the next message of the helper."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        """End the app as a crash does, or as a user does who has no patience."""
        self.process.kill()
        self.process.wait()

    def helper_ends(self) -> bool:
        """Wait until the helper has ended."""
        return bool(select.select([self._helper], [], [], LIMIT_S)[0])


@contextmanager
def app(
    *command: str, line: str = "", is_kept: bool = False, is_parent: bool = True
) -> Iterator[App]:
    """Run an app with a helper; ``is_parent``: tell the helper which process its app is."""
    starter = [sys.executable, "-c", APP, "kept" if is_kept else "", line]
    if is_parent:
        shell = 'exec "$@" --parent "$PPID"'
        command = ("sh", "-c", shell, "sh", *command)
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [*starter, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        for pid in [found["helper"], *found["others"]]:
            stack.callback(_kill, pid)
        yield App(process, found["helper"])


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


# The command line, where a model is being loaded until somebody writes into a pipe.
SLOW = """
import sys
from edgeseq.cli import main
from edgeseq.runtime import loading

pipe = sys.argv.pop(1)
loading.open_tokenizer = lambda bundle: open(pipe).read()
sys.exit(main())
"""


class SlowLoading:
    """A command whose models are being loaded until we close it."""

    def __init__(self, folder: Path) -> None:
        self._pipe = folder / "pipe"
        os.mkfifo(self._pipe)
        self.command = [sys.executable, "-c", SLOW, str(self._pipe), "serve", "--demo"]
        self._writing: list[int] = []

    def wait(self) -> None:
        """Wait until a model is being loaded."""

        def is_read() -> bool:
            try:
                self._writing.append(os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO  # nobody reads
                return False
            return True

        poll(is_read)

    def close(self) -> None:
        for descriptor in self._writing:
            os.close(descriptor)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowLoading]:
    found = SlowLoading(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize("is_kept", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("is_parent", [False, True], ids=["default", "parent"])
@pytest.mark.parametrize("line", ["", REQUEST], ids=["idle", "generating"])
def test_a_helper_ends_with_its_app(line: str, is_kept: bool, is_parent: bool) -> None:
    with app(*STDIO, line=line, is_kept=is_kept, is_parent=is_parent) as found:
        assert found.next()["method"] == "ready"
        if line:
            assert found.next()["method"] == "piece"
        found.kill()
        assert found.helper_ends()


@pytest.mark.parametrize("is_kept", [False, True], ids=["", "kept"])
def test_a_helper_that_is_loading_ends_with_its_app(slow: SlowLoading, is_kept: bool) -> None:
    with app(*slow.command, "--stdio", is_kept=is_kept) as found:
        slow.wait()
        found.kill()
        assert found.helper_ends()


@pytest.mark.parametrize("doing", ["nothing", "generating", "loading"])
def test_a_helper_ends_at_the_end_of_standard_input(slow: SlowLoading, doing: str) -> None:
    command = [*slow.command, "--stdio"] if doing == "loading" else STDIO
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if doing == "loading":
            slow.wait()
        else:
            assert b'"ready"' in process.stdout.readline()
        if doing == "generating":
            process.stdin.write(REQUEST.encode() + b"\n")
            process.stdin.flush()
            assert b'"piece"' in process.stdout.readline()
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0


def test_a_server_ends_with_its_app() -> None:
    with app(*HTTP) as found:
        url = found.next()["url"]
        poll(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200)
        found.kill()
        assert found.helper_ends()


def test_a_server_that_streams_ends_with_its_app() -> None:
    with app(*HTTP) as found:
        address = found.next()
        url = address["url"]
        assert url == f"http://127.0.0.1:{address['port']}"
        poll(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200)
        body = {**LONG, "min_new_tokens": 2000}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            while not next(lines).startswith("data: "):
                pass
            found.kill()
            assert found.helper_ends()


def test_a_server_that_is_loading_ends_with_its_app(slow: SlowLoading) -> None:
    with app(*slow.command, "--port", "0") as found:
        found.next()
        slow.wait()
        found.kill()
        assert found.helper_ends()


def test_a_server_without_an_app_prints_nothing() -> None:
    with subprocess.Popen(HTTP, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert b"edgeseq serves" in process.stderr.readline()
        process.terminate()
        assert process.stdout.read() == b""
