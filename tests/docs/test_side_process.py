"""The conversation of the guide for helpers of apps, and the example client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseq.serving.stdio import messages
from edgeseq.serving.stdio.process import METHODS
from tests.support.pages import ROOT

PAGE = (ROOT / "docs" / "guides" / "side-process.md").read_text(encoding="utf-8")
CLIENT = ROOT / "examples" / "side_process" / "client.mjs"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
LIMIT_S = 120


def test_the_conversation_is_as_shown() -> None:
    [lines] = re.findall(r"^```text\n((?:[<>] .*\n)+)```$", PAGE, re.MULTILINE)
    with subprocess.Popen(
        [sys.executable, "-m", "edgeseq.cli", "serve", "--stdio", "--demo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        for line in lines.splitlines():
            if line[0] == ">":
                print(line[2:], file=helper.stdin, flush=True)
            else:
                pattern = re.escape(line[2:]).replace("…", ".*")
                assert re.fullmatch(pattern, helper.stdout.readline().rstrip("\n")), line
        assert helper.wait(LIMIT_S) == 0


def test_all_methods_and_codes_are_described() -> None:
    described = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(described) == sorted(METHODS)
    codes = {int(code) for code in re.findall(r"^\| (-\d+) \|", PAGE, re.MULTILINE)}
    constants = (value for name, value in vars(messages).items() if name.isupper())
    assert codes == {value for value in constants if type(value) is int}


@pytest.mark.skipif(shutil.which("node") is None, reason="the client is for Node")
def test_the_client_for_node_prints_what_is_shown() -> None:
    done = subprocess.run(
        ["node", str(CLIENT)],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"```\n{done.stdout}```" in PAGE


@pytest.mark.skipif(shutil.which("node") is None, reason="the client is for Node")
@pytest.mark.parametrize("command", ["no-such-program", "false"])
def test_the_client_for_node_tells_why_there_is_no_helper(command: str) -> None:
    done = subprocess.run(
        ["node", str(CLIENT), command], capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 1
    assert command in done.stderr or "ended with status 1" in done.stderr
