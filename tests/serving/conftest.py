"""Applications over the demo models, and a server in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient

from edgeseq.runtime import Model
from edgeseq.runtime.decoder import Decoder
from edgeseq.serving import Settings, create_app

URL = re.compile(r"at (http://\S+) ")
NewClient = Callable[..., TestClient]


@pytest.fixture(scope="session")
def client(demo_gpt2: Model, demo_t5: Model) -> Iterator[TestClient]:
    """A client of an application that serves both demo models."""
    app = create_app({"demo-gpt2": demo_gpt2, "demo-t5": demo_t5})
    with TestClient(app, base_url="http://localhost") as found:
        yield found


@pytest.fixture
def new_client(demo_gpt2: Model) -> Iterator[NewClient]:
    """``new_client(model, **settings)``: a client of an application; by default the demo GPT-2."""
    with ExitStack() as clients:

        def make(model: Model = demo_gpt2, **settings: Any) -> TestClient:
            app = create_app({"demo": model}, Settings(**settings))
            return clients.enter_context(TestClient(app, base_url="http://localhost"))

        yield make


class Gate:
    """A model whose generations wait until the gate is opened."""

    def __init__(self, model: Model) -> None:
        self._open = threading.Event()
        self._new_decoder = model.new_decoder
        self.model = model.with_decoders(self._decoder)

    def open(self) -> None:
        self._open.set()

    def _decoder(self, prompts: Any, capacity: int) -> Decoder:
        assert self._open.wait(60)
        return self._new_decoder(prompts, capacity)


@pytest.fixture
def gate(demo_gpt2: Model) -> Iterator[Gate]:
    """The demo GPT-2 behind a gate, which is open at last."""
    found = Gate(demo_gpt2)
    yield found
    found.open()


@contextmanager
def running_server(*arguments: str, **environment: str) -> Iterator[tuple[Any, str]]:
    """Run ``edgeseq serve`` on a free port; yield the process and its URL once it listens."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "edgeseq.cli", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stderr is not None
        try:
            found = None
            while found is None:
                line = process.stderr.readline()
                assert line, "the server has ended"
                found = URL.search(line)
            # It would wait for us once its log fills the pipe.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield process, found[1]
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of a running server of both demo models."""
    with running_server("--demo", "--threads", "1") as (_, url):
        yield url
