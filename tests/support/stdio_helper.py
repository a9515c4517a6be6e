"""The helper process ``edgeseq serve --stdio``, as an app starts it and talks to it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LIMIT_S = 120
SERVE = [sys.executable, "-W", "error", "-m", "edgeseq.cli", "serve", "--threads", "1"]
# A stream that nothing ends: T5 has no limit of positions.
ENDLESS = {
    "model": "demo-t5",
    "prompt": "pronounce: table",
    "stream": True,
    "max_new_tokens": 1_000_000,
    "min_new_tokens": 1_000_000,
}


class Helper:
    """A running helper: its process, and what it sends; ``ready`` is its first message."""

    ready: dict[str, Any]

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: dict[Any, dict[str, Any]] = {}
        self._ids = iter(range(1, 1_000_000))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._messages.put(json.loads(line))
        self._messages.put(None)

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def send(self, method: str, request_id: Any = None, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        self.write(json.dumps(message).encode() + b"\n")

    def next(self) -> Any:
        """Return the next message; None after the last one."""
        return self._messages.get(timeout=LIMIT_S)

    def answer_to(self, request_id: Any) -> dict[str, Any]:
        """Return the answer to a request; keep the answers before it, and skip notifications."""
        while request_id not in self._answers:
            message = self.next()
            assert message is not None
            if "method" not in message:
                self._answers[message["id"]] = message
        return self._answers.pop(request_id)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request and return its result."""
        request_id = f"ask-{next(self._ids)}"
        self.send(method, request_id, **params)
        result: dict[str, Any] = self.answer_to(request_id)["result"]
        return result

    def error(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request that fails and return its error."""
        request_id = f"error-{next(self._ids)}"
        self.send(method, request_id, **params)
        error: dict[str, Any] = self.answer_to(request_id)["error"]
        return error

    def refused(self, line: bytes) -> dict[str, Any]:
        """Write a line that is no request; return the whole answer, the next one."""
        self.write(line)
        message: dict[str, Any] = self.next()
        return message

    def close(self) -> int:
        """Close standard input; return the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(LIMIT_S)


@contextmanager
def running_helper(
    *arguments: str, command: list[str] | None = None, **environment: str
) -> Iterator[Helper]:
    """Run a helper of the demo models, or with other arguments; yield it once it is ready."""
    with subprocess.Popen(
        [*(command or SERVE), "--stdio", *(arguments or ("--demo",))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    ) as process:
        helper = Helper(process)
        try:
            helper.ready = helper.next()
            assert helper.ready["method"] == "ready"
            yield helper
        finally:
            process.kill()
