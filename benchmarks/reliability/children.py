"""Run a call in a forked child with limits of time and memory, and say how it ended.

The parent imports everything once, so that a child costs milliseconds. It must have started no
threads and opened no model.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edgeseq.runtime.errors import EdgeseqError

LIMIT_BYTES = 1 << 30  # resident memory beyond the parent's
ADDRESSES_BYTES = 12 << 30  # address space; keeps the machine safe
LONGEST_MESSAGE = 1500  # characters; values and paths that are quoted included


class End(NamedTuple):
    """How a child ended.

    ``outcome``: "text", "refused", "foreign" (another exception than ``EdgeseqError``), "sentence"
    (an ``EdgeseqError`` that is not one sentence), "crash", "endless", "memory" or "exit".
    ``detail``: the text, message or signal.
    """

    outcome: str
    detail: str
    seconds: float
    resident_mb: float


def run_in_child(call: Callable[[], str], limit_s: float) -> End:
    """Return how ``call`` ends in a child process, which has ``limit_s`` seconds."""
    began = time.monotonic()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _in_child(call, writing, errors)
        os.close(writing)
        content, in_time = _read(reading, began + limit_s)
        os.close(reading)
        if not in_time:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        errors.seek(0)
        printed = errors.read().decode(errors="replace")
    seconds = time.monotonic() - began
    megabytes = usage.ru_maxrss / 1024
    outcome, detail = "exit", f"status {os.waitstatus_to_exitcode(status)}"
    if not in_time:
        outcome, detail = "endless", _shown(printed)
    elif os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        outcome, detail = "crash", f"{name}: {_shown(printed)}"
    elif content:
        outcome, detail = json.loads(content)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if outcome in ("text", "refused") and megabytes > own + LIMIT_BYTES / 2**20:
        outcome, detail = "memory", f"{megabytes:.0f} MiB: {detail}"
    return End(outcome, detail, seconds, megabytes)


def _shown(printed: str) -> str:
    return " | ".join(printed.split("\n"))[:1200]


def _read(reading: int, deadline: float) -> tuple[bytes, bool]:
    """Return what the child wrote until it ended, and whether it did before ``deadline``."""
    content = b""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([reading], [], [], left)
        if ready:
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                return content, True
            content += chunk
    return content, False


def _in_child(call: Callable[[], str], writing: int, errors: BinaryIO) -> None:
    """Run ``call``, write its end as JSON, and leave the process without running exit handlers."""
    status = 1
    try:
        os.dup2(errors.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        faulthandler.enable(2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES_BYTES, ADDRESSES_BYTES))
        try:
            end = ("text", call())
        except EdgeseqError as error:
            message = str(error)
            is_sentence = len(message) <= LONGEST_MESSAGE and "\n" not in message
            end = ("refused" if is_sentence else "sentence", message[:LONGEST_MESSAGE])
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "reliability" not in frame.filename][-3:]
            place = " < ".join(
                f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(ours)
            )
            end = ("foreign", f"{type(error).__name__}: {error!s:.300} ({place})")
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(end).encode())
        status = 0
    finally:
        os._exit(status)
