"""Python programs in processes of their own, and what other processes do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

TIME_LIMIT_S = 120
# The beginning of a program whose first argument lists packages (a,b) that cannot be imported.
WITHOUT_PACKAGES = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked = sys.argv.pop(1).split(",")
sys.meta_path.insert(0, Blocker())
"""


def python(code: str, *arguments: object, **environment: str) -> str:
    """Return what ``code`` prints in a process of its own.

    Warnings are errors there. The process ends with status 0 and has an empty standard error.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        check=False,
        timeout=TIME_LIMIT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def poll(true: Callable[[], bool], limit_s: float = 60) -> None:
    """Ask every 10 ms until ``true()``, for what nothing reports; fail after ``limit_s``."""
    pause, deadline = threading.Event(), time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        pause.wait(0.01)
