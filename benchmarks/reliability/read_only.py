"""Run operations in read-only folders, and look at what they do.

    python -m benchmarks.reliability.read_only --work FOLDER

Needs root, to mount folders read-only, which binds root, too. Three things must hold. What only
reads a bundle works on a read-only one, also without root's privileges. An operation whose inputs
are read-only works. An operation whose target is in a read-only folder, or in one without the
permission to write, ends with status 1 and one sentence, and leaves an old target as it was and no
temporary files. Prints a table; the exit status is 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import ExitStack

from .jobs import Job, sentence, start
from .limits import can_mount, read_only, without_privileges
from .operations import OLD, Operation, Trial, Trials, chosen
from .reading import READERS
from .report import Broken, add_flags, print_table


def main() -> int:
    """Return 1 if a promise is broken."""
    given = add_flags(argparse.ArgumentParser(description="Use read-only folders.")).parse_args()
    if not can_mount():
        sys.exit("This script needs root, to mount folders read-only.")
    trials, broken = Trials(given.work), Broken()
    operations = chosen(given.operations)
    for operation in operations:
        trials.reference(operation)
    rows = [_writes(trials, operation, broken) for operation in operations]
    with read_only(trials.inputs.folder):
        if given.operations is None:
            rows += [_reads(trials, name, broken) for name in READERS]
    print_table(
        ["operation", "inputs read-only", "target read-only", "target without permission"], rows
    )
    return broken.report()


def _writes(trials: Trials, operation: Operation, broken: Broken) -> list[object]:
    row: list[object] = [operation.name]
    trial = trials.new(operation)
    with read_only(trials.inputs.folder):
        fault = trial.again()
    row.append(_noted(f"{operation.name}, inputs read-only", fault, "works", trial, broken))
    for limits in ((), (without_privileges,)):
        trial = trials.new(operation)
        if limits:
            trial.results.chmod(0o555)
        with ExitStack() as stack:
            if not limits:
                stack.enter_context(read_only(trial.results))
            job = trial.start(*limits)
            job.wait()
            fault = _refused(job, trial)
        name = f"{operation.name}, {'no permission' if limits else 'read-only'}"
        row.append(_noted(name, fault, "one sentence", trial, broken))
    return row


def _refused(job: Job, trial: Trial) -> str | None:
    """Return what is wrong after an operation that cannot write."""
    said = sentence(job)
    if said is None:
        return f"it ends with status {job.status} and says {job.errors[-300:]!r}"
    print(f"{trial.operation.name}: {said}", file=sys.stderr)
    if trial.operation.replaces and trial.look() != OLD:
        return f"the old target is {trial.look()}"
    return trial.lost()


def _reads(trials: Trials, name: str, broken: Broken) -> list[object]:
    row: list[object] = [name]
    for limits in ((), (without_privileges,)):
        folder = trials.folder()
        job = start(READERS[name](trials.inputs), folder, *limits)
        fault = f"status {job.status}: {job.errors[-300:]}" if job.wait() else None
        if fault:
            broken.note(f"{name}, read-only{', no privileges' * bool(limits)}: {fault}", folder)
        else:
            shutil.rmtree(folder)
        row.append("BROKEN" if fault else "works")
    return [row[0], row[1], "", ""] if row[1] == row[2] else [*row, ""]


def _noted(name: str, fault: str | None, good: str, trial: Trial, broken: Broken) -> str:
    if fault:
        broken.add(f"{name}: {fault}", trial)
        return "BROKEN"
    trial.delete()
    return good


if __name__ == "__main__":
    sys.exit(main())
