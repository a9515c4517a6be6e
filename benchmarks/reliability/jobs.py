"""Jobs: an operation in a process of its own, which can be limited, watched and killed.

Imports take seconds and an operation on a tiny model less. So this process imports all that the
operations need, and each job is a fork of it. To the system it is a process like any other, at the
head of its own session.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

DISK, TMP, CACHE = "disk", "tmp", "cache"  # folders of a job
TIME_LIMIT_S = 120.0  # a job that takes longer hangs
END_S = 10.0  # that children of a killed process have to end
PAUSE_S = 0.0005  # between two looks at a folder
MODULES = (
    "edgeseq.cli.command_line",
    "edgeseq.cli.export",
    "edgeseq.cli.quantize",
    "edgeseq.cli.run",
    "edgeseq.cli.train",
    "edgeseq.export",
    "edgeseq.quantize",
    "edgeseq.training",
    "edgeseq.training.bundling",
    "edgeseq.batch.files",
    "edgeseq.batch.workers",
    "edgeseq.runtime.loading",
    "edgeseq.runtime.model",
    "accelerate",
    "matplotlib.pyplot",
)
Work = Callable[[], int]
Limit = Callable[[], object]


def import_all() -> None:
    """Import what operations need, so that jobs start at once."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    for name in MODULES:
        import_module(name)


@dataclass
class Job:
    """A running operation; ``folder`` holds what it prints."""

    process: int
    folder: Path
    status: int | None = None  # negative: the signal that ended it

    def poll(self) -> int | None:
        """Return the exit status; None while the job runs."""
        if self.status is None:
            done, how = os.waitpid(self.process, os.WNOHANG)
            if done:
                self.status = os.waitstatus_to_exitcode(how)
        return self.status

    def wait(self) -> int:
        """Wait for the end of the job; return its exit status. A job that hangs is an error."""
        end = time.monotonic() + TIME_LIMIT_S
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"A job did not end in {TIME_LIMIT_S:.0f} s: {self.errors}")
            time.sleep(PAUSE_S)
        assert self.status is not None
        return self.status

    def kill(self, *, alone: bool = False) -> int:
        """Send SIGKILL to the job and, unless ``alone``, to its children; return its status."""
        if self.poll() is None:
            if not alone:
                with suppress(ProcessLookupError):  # it does not lead a session yet
                    os.killpg(self.process, signal.SIGKILL)
            os.kill(self.process, signal.SIGKILL)
            _, how = os.waitpid(self.process, 0)
            self.status = os.waitstatus_to_exitcode(how)
        assert self.status is not None
        return self.status

    @property
    def errors(self) -> str:
        """What the job has written to standard error."""
        return (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")

    @property
    def printed(self) -> str:
        """What the job has written to standard output."""
        return (self.folder / "stdout").read_text(encoding="utf-8", errors="replace")

    def watch(self, folders: Sequence[Path], until: int | None = None) -> tuple[int, int]:
        """Watch ``folders`` until the job ends, or until they have changed ``until`` times.

        Returns how often they changed, and the most bytes that their files had at once.
        """
        before, changes, peak = sizes(folders), 0, 0
        while self.poll() is None and (until is None or changes < until):
            now = sizes(folders)
            if now != before:
                changes += 1
                peak = max(peak, sum(size for size in now.values() if size > 0))
                before = now
            time.sleep(PAUSE_S)
        return changes, peak

    def others_after(self, seconds: float) -> list[int]:
        """Return the processes of the job's session that still run after ``seconds``."""
        end = time.monotonic() + seconds
        while found := [one for one in processes() if session_of(one) == self.process]:
            if time.monotonic() > end:
                return found
            time.sleep(0.01)
        return []


def start(work: Work, folder: Path, *limits: Limit) -> Job:
    """Start ``work`` in a new process, under ``limits``; what it prints goes to ``folder``.

    Temporary files and the user's cache are below ``folder``, too, in the folder DISK.
    """
    for name in (TMP, CACHE):
        with suppress(OSError):  # the disk may be read-only
            (folder / DISK / name).mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        _run(work, folder, limits)
    return Job(process, folder)


def _run(work: Work, folder: Path, limits: Sequence[Limit]) -> NoReturn:
    """Do the work in the new process and end it."""
    status = 99
    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
        os.environ["TMPDIR"] = str(folder / DISK / TMP)
        os.environ["XDG_CACHE_HOME"] = str(folder / DISK / CACHE)
        tempfile.tempdir = None
        for limit in limits:
            limit()
        status = work()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Command:
    """The work of a command line; ``cache``: the user's cache folder, if it is not the job's."""

    def __init__(self, *arguments: object, cache: Path | None = None) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self._cache = cache

    def __call__(self) -> int:
        """Run the command in this process."""
        from edgeseq.cli.command_line import main

        self._set_cache()
        return main(self.arguments)

    def start_python(self) -> NoReturn:
        """Run the command in place of this process, which imports all anew."""
        self._set_cache()
        os.execv(sys.executable, [sys.executable, "-m", "edgeseq.cli", *self.arguments])

    def _set_cache(self) -> None:
        if self._cache is not None:
            os.environ["XDG_CACHE_HOME"] = str(self._cache)


def sentence(job: Job) -> str | None:
    """Return the sentence that a failed job ended with; None if it ended in another way."""
    lines = [line for line in job.errors.splitlines() if line.strip()]
    if job.status != 1 or "Traceback" in job.errors or not lines:
        return None
    return lines[-1].removeprefix("edgeseq: ") if lines[-1].startswith("edgeseq: ") else None


def processes() -> list[int]:
    """Return the ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def session_of(process: int) -> int | None:
    """Return the session of a process that runs; None for another one."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2]
    except OSError:
        return None
    state, _, _, session = fields.split()[:4]
    return None if state in "ZX" else int(session)


def sizes(folders: Sequence[Path]) -> dict[str, int]:
    """Return the size of each file in ``folders``, and -1 for each folder in them."""
    found: dict[str, int] = {}
    waiting = [str(folder) for folder in folders]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        found[entry.path] = -1
                    else:
                        found[entry.path] = entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue  # deleted in the meantime
    return found
