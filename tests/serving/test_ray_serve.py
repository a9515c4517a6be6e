"""The example of Ray Serve: replicas of the server, which answer as the server does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import Model
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from tests.support.processes import TIME_LIMIT_S, poll

pytestmark = pytest.mark.nightly
pytest.importorskip("ray")
pytest.importorskip("fastapi", reason="Ray Serve needs it")

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_serve.py"
URL = "http://127.0.0.1:8000"


def body_of(path: str, **fields: Any) -> Any:
    content = json.dumps(fields).encode() if fields else None
    request = urllib.request.Request(URL + path, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIME_LIMIT_S) as answer:
        return json.load(answer)


def is_ready() -> bool:
    try:
        return bool(body_of("/v1/models")["data"])
    except OSError:
        return False


@pytest.fixture
def served() -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE), str(demo_bundle("gpt2")), "2"],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": "local"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        poll(is_ready, 120)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(TIME_LIMIT_S)


def test_replicas_answer_as_the_model_does(served: None, demo_gpt2: Model) -> None:
    fields = {"model": "gpt2", "prompt": "Once upon a time,", "temperature": 0, "max_tokens": 8}
    greedy = {"do_sample": False, "repetition_penalty": 1.0}
    [expected] = demo_gpt2.generate("Once upon a time,", max_new_tokens=8, **greedy)
    for _ in range(6):
        [choice] = body_of("/v1/completions", **fields)["choices"]
        assert choice["text"] == expected.text
