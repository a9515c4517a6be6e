"""Run operations with little memory, and look at how they end.

    python -m benchmarks.reliability.little_memory --work FOLDER

Each operation, and each command that only reads a bundle, runs with several limits of its address
space (RLIMIT_AS): some that a whole process has from its start, and some that are reached once all
is imported. It must work, or end with status 1 and one sentence, and leave an old target as it was,
and no half target. Deleting files takes memory, too, so a hidden temporary folder may stay; the
next run deletes it. What C++ code of a library ends by
a signal or with its own message is counted: it must also leave no half target, and the next run
must succeed. Prints a table; the exit status is
1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from functools import partial

from .jobs import Command, Job, Work, sentence, start
from .limits import memory, more_memory
from .operations import ABSENT, BEGUN, OLD, WHOLE, Operation, Trial, Trials, chosen
from .reading import READERS
from .report import Broken, add_flags, print_table

MORE_MIB = (1, 4, 16, 32, 64, 128, 256, 1024)  # beside what is imported
ALL_MIB = (50, 100, 150, 200, 225, 250, 275, 300, 350, 400, 600)  # of a whole process
TORCH_MIB = (200, 600, 900, 1000, 1200, 1500, 4000)  # the same, with PyTorch
TORCH = ("export", "train")
NAMES = ("works", "one sentence", "ended by a library", "traceback")
# What OpenBLAS, CPython, tokenizers (Rust) and PyTorch say when their own code cannot go on.
ENDED_BY_LIBRARY = (
    "OpenBLAS error",
    "SystemError: error return without exception set",
    "PanicException",
    "Exception ignored in atexit callback",
    "cannot allocate memory for thread-local data",  # the C library
    "Importing the numpy C-extensions failed",  # ONNX Runtime prints it
)


def main() -> int:
    """Return 1 if a promise is broken."""
    parser = add_flags(argparse.ArgumentParser(description="Run operations with little memory."))
    parser.add_argument(
        "--readers",
        nargs="*",
        default=list(READERS),
        choices=list(READERS),
        metavar="NAME",
        help="the commands that only read to try (default: all; without a name: none)",
    )
    given = parser.parse_args()
    trials, broken = Trials(given.work), Broken()
    rows = [_writes(trials, operation, broken) for operation in chosen(given.operations)]
    rows += [_reads(trials, name, broken) for name in given.readers]
    print_table(["operation", "limits", *NAMES, "files left"], rows)
    return broken.report()


def _limits(work: Work) -> list[tuple[str, Work, partial[None]]]:
    """Return each limit: its name, the work and what sets it."""
    limits = [(f"{size} MiB more", work, partial(more_memory, size)) for size in MORE_MIB]
    if isinstance(work, Command):
        sizes = TORCH_MIB if work.arguments[0] in TORCH else ALL_MIB
        limits += [(f"{size} MiB", work.start_python, partial(memory, size)) for size in sizes]
    return limits


def _writes(trials: Trials, operation: Operation, broken: Broken) -> list[object]:
    count: Counter[str] = Counter()
    number = len(_limits(Trial(operation, trials.inputs, trials.work).command))
    for index in range(number):
        trial = trials.new(operation)
        name, work, limit = _limits(trial.command)[index]
        job = start(work, trial.folder, limit)
        job.wait()
        count[how := _how(job)] += 1
        _show(operation.name, name, how, job)
        fault = None
        if how == "works":
            fault = None if trial.look() == WHOLE else f"it works and is {trial.look()}"
        elif how == "traceback":
            fault = f"it ends with status {job.status} and says {job.errors[-300:]!r}"
        elif trial.look() not in (ABSENT, OLD, BEGUN):
            fault = f"the target is {trial.look()}"
        else:
            count["left"] += bool(trial.left())
            fault = trial.again()
        if fault:
            broken.add(f"{operation.name}, {name}: {fault}", trial)
        else:
            trial.delete()
    return [operation.name, number, *(count[how] for how in NAMES), count["left"]]


def _reads(trials: Trials, reader: str, broken: Broken) -> list[object]:
    count: Counter[str] = Counter()
    limits = _limits(READERS[reader](trials.inputs))
    for name, work, limit in limits:
        folder = trials.folder()
        job = start(work, folder, limit)
        job.wait()
        count[how := _how(job)] += 1
        _show(reader, name, how, job)
        if how == "traceback":
            broken.note(f"{reader}, {name}: {job.status} and {job.errors[-300:]!r}", folder)
        else:
            shutil.rmtree(folder)
    return [reader, len(limits), *(count[how] for how in NAMES), ""]


def _how(job: Job) -> str:
    if job.status == 0:
        return "works"
    assert job.status is not None
    if job.status < 0 or any(words in job.errors for words in ENDED_BY_LIBRARY):
        return "ended by a library"
    is_told = sentence(job) is not None
    if job.status == 1 and not job.errors:  # `doctor` says in its report what did not work
        is_told = " error " in job.printed
    return "one sentence" if is_told else "traceback"


def _show(operation: str, limit: str, how: str, job: Job) -> None:
    said = sentence(job) or " ".join(job.errors.split())[-300:]
    print(f"{operation}, {limit}: {how} ({job.status}) {said}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
