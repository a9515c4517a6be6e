"""Measure ``edgeseq serve`` as the helper process of an app: its end, its idle wake-ups, its start.

    python benchmarks/side_process.py [BUNDLE]

An app, a process of its own, starts a helper and is killed with SIGKILL while the helper is
idle, loads its model, or generates. The time is from the kill to the end of the helper. Then the
times are counted that the threads of an idle helper wake up. Linux only.
"""

from __future__ import annotations

import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROUNDS = 10
IDLE_S = 10.0
LIMIT_S = 60
APP = """
import subprocess, sys

line, *command = sys.argv[1:]
helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(helper.pid, flush=True)
if line:
    helper.stdin.write(line.encode() + b"\\n")
    helper.stdin.flush()
for answer in helper.stdout:
    sys.stdout.buffer.write(answer)
    sys.stdout.flush()
sys.stdin.read()
"""
PROMPT = {"prompt": "Once upon a time", "num_return_sequences": 64, "max_new_tokens": 480}
REQUESTS = [
    {"id": 1, "method": "generate", "params": {"prompt": "Once upon a time", "stream": True}},
    {"id": 2, "method": "generate", "params": {**PROMPT, "do_sample": True}},
]
STATES = {  # what the helper has said before the app is killed, and what it was asked
    "loading": ("", ""),
    "idle": ('"ready"', ""),
    "generating": ('"id":1,', "\n".join(map(json.dumps, REQUESTS))),
}


class App:
    """An app that runs, with a helper."""

    def __init__(self, line: str, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", APP, line, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.helper = int(self._line())
        self._ended = os.pidfd_open(self.helper)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def wait_for(self, text: str) -> None:
        """Wait until the helper has sent a line with ``text``."""
        while text not in (line := self._line()):
            assert line, "the helper has ended"

    def kill(self) -> float:
        """Kill the app; return the seconds until the helper has ended."""
        began = time.perf_counter()
        self.process.kill()
        assert select.select([self._ended], [], [], LIMIT_S)[0], "the helper has not ended"
        taken = time.perf_counter() - began
        os.close(self._ended)
        self.process.communicate()
        return taken


def wake_ups(pid: int) -> int:
    """Return how often the threads of a process have waited for something so far."""
    return sum(
        int(line.split()[1])
        for path in Path(f"/proc/{pid}/task").glob("*/status")
        for line in path.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    bundle = ["--bundle", sys.argv[1]] if len(sys.argv) > 1 else ["--demo"]
    command = [sys.executable, "-m", "edgeseq.cli", "serve", *bundle]
    model = {} if len(sys.argv) > 1 else {"model": "demo-gpt2"}
    found: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}"}
    for state, (said, lines) in STATES.items():
        asked = [json.loads(line) for line in lines.splitlines()]
        for request in asked:
            request["params"] |= model
        times = []
        for i in range(ROUNDS):
            app = App("\n".join(map(json.dumps, asked)), *command, "--stdio")
            if said:
                app.wait_for(said)
            else:
                time.sleep(0.1 * (i + 1))  # at another moment of the start each time
            times.append(app.kill())
        found[f"end_while_{state}_s"] = spread(times)
    starts = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        app = App("", *command, "--stdio")
        app.wait_for('"ready"')
        starts.append(time.perf_counter() - began)
        app.kill()
    found["start_to_ready_s"] = spread(starts)
    for kind, flags in {"stdio": ["--stdio"], "http": ["--port", "0"]}.items():
        app = App("", "sh", "-c", 'exec "$@" --parent $PPID', "sh", *command, *flags)
        app.wait_for('"ready"' if kind == "stdio" else '"url"')
        time.sleep(3)  # what the start has left to do
        before = wake_ups(app.helper)
        time.sleep(IDLE_S)
        found[f"idle_wake_ups_a_second_{kind}"] = (wake_ups(app.helper) - before) / IDLE_S
        found[f"end_of_{kind}_s"] = round(app.kill(), 3)
    for name, value in found.items():
        print(f"{name:32} {value}")
    print(json.dumps(found))


def spread(times: list[float]) -> dict[str, float]:
    """Return the median and the largest of some times."""
    return {"median": round(statistics.median(times), 3), "max": round(max(times), 3)}


if __name__ == "__main__":
    main()
