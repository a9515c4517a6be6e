"""The commands that only read a bundle."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.request import urlopen

from .jobs import Command, Work
from .operations import TEXT, Inputs

SHORT = ("--threads", 1, "--max-new-tokens", 4)
SERVER_S = 60.0  # that a server has to answer


def generate(inputs: Inputs) -> Work:
    """Return a generation."""
    return Command("generate", "--bundle", inputs.bundle, TEXT, *SHORT)


def load(inputs: Inputs) -> Work:
    """Return loading in Python, with a check of all hashes."""

    def work() -> int:
        from edgeseq.runtime import load

        with load(inputs.bundle, verify=True, threads=1) as model:
            return 0 if model.generate(TEXT, max_new_tokens=4)[0].token_ids else 1

    return work


def evaluate(inputs: Inputs) -> Work:
    """Return an evaluation on a text."""
    text = inputs.folder / "calibration.txt"
    return Command("eval", inputs.bundle, text, "--threads", 1)


def info(inputs: Inputs) -> Work:
    """Return a check of a bundle."""
    return Command("info", inputs.bundle, "--verify")


def bench(inputs: Inputs) -> Work:
    """Return a short measurement."""
    flags = ["--rounds", 1, "--repeats", 1, "--prompt", 8, "--contexts", 8, "--new-tokens", 16]
    return Command("bench", inputs.bundle, *flags, "--retries", 0, "--threads", 1)


def compare(inputs: Inputs) -> Work:
    """Return a comparison of two bundles."""
    flags = ["--data", inputs.folder / "calibration.txt", "--rounds", 0, "--threads", 1]
    return Command("compare", inputs.bundle, inputs.other.bundle, *flags)


def doctor(inputs: Inputs) -> Work:
    """Return the description of the installation."""
    return Command("doctor", "--bundle", inputs.bundle)


def serve(inputs: Inputs) -> Work:
    """Return a server that answers one request and ends."""

    def work() -> int:
        answered = threading.Event()
        threading.Thread(target=_ask, args=(answered,), daemon=True).start()
        flags = ["--port", 0, "--threads", 1]
        status = Command("serve", "--bundle", f"tiny={inputs.bundle}", *flags)()
        return 0 if answered.is_set() and status == 0 else 1

    return work


def _ask(answered: threading.Event) -> None:
    """Ask the server of this process, whose address it prints, and end it."""
    printed = [Path(f"/proc/self/fd/{number}").readlink() for number in (1, 2)]
    end = time.monotonic() + SERVER_S
    while time.monotonic() < end:
        words = " ".join(path.read_text(encoding="utf-8") for path in printed).split()
        for url in [word.rstrip(".,/") for word in words if word.startswith("http://")][:1]:
            try:
                with urlopen(f"{url.removesuffix('/v1')}/health") as answer:
                    if json.load(answer) is not None:
                        answered.set()
            except OSError:
                continue
        if answered.is_set():
            break
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


READERS: Mapping[str, Callable[[Inputs], Work]] = {
    "load(verify=True)": load,
    "generate": generate,
    "eval": evaluate,
    "info --verify": info,
    "bench": bench,
    "compare": compare,
    "doctor": doctor,
    "serve": serve,
}
