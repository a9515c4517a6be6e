"""A server that gets what no client should send: small forms of ``server_fuzz.py``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "benchmarks.reliability.server_fuzz"]


def fuzz(*arguments: str) -> None:
    """Run the script, which must keep its promises."""
    finished = subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    figures = json.loads(finished.stdout.splitlines()[-1])
    assert (figures["exit_status"], figures["faults"], figures["texts_that_differ"]) == (0, [], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the script needs Linux")
def test_a_server_answers_after_what_no_client_should_send() -> None:
    # Memory grows until each kind of request was sent a few times, so its limit is wide here.
    fuzz("--requests", "200", "--limit", "400")


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="the script needs Linux")
def test_memory_of_a_server_is_flat_over_thousands_of_requests() -> None:
    fuzz("--requests", "10000", "--seed", "1")
