"""Run all operations without a network.

    python -m benchmarks.reliability.network --work FOLDER

Each operation, and each command that only reads a bundle, runs twice: in a network namespace
without any interface (needs root), and under a filter with which the system kills a process that
opens a socket, in native code, too. All must work, and make the same bytes as with a network. Only
the server opens sockets: it is left out. Prints a table; the exit status is 1 if a promise is
broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from .jobs import Limit, start
from .limits import kill_at_socket, without_network
from .operations import WHOLE, Trials, chosen
from .reading import READERS
from .report import Broken, add_flags, print_table

WAYS: Mapping[str, Limit] = {
    "without interfaces": without_network,
    "killed at a socket": kill_at_socket,
}


def main() -> int:
    """Return 1 if a promise is broken."""
    parser = add_flags(argparse.ArgumentParser(description="Run operations without a network."))
    given = parser.parse_args()
    trials, broken = Trials(given.work), Broken()
    rows: list[list[object]] = []
    for operation in chosen(given.operations):
        row: list[object] = [operation.name]
        for way, limit in WAYS.items():
            trial = trials.new(operation)
            job = trial.start(limit)
            good = job.wait() == 0 and trial.look() == WHOLE
            row.append("works" if good else "BROKEN")
            if good:
                trial.delete()
            else:
                broken.add(f"{operation.name}, {way}: {job.status}, {job.errors[-400:]}", trial)
        rows.append(row)
    for name, reader in READERS.items():
        if name == "serve" or given.operations is not None:
            continue
        row = [name]
        for way, limit in WAYS.items():
            job = start(reader(trials.inputs), trials.folder(), limit)
            row.append("BROKEN" if job.wait() else "works")
            if job.status:
                broken.note(f"{name}, {way}: {job.status}, {job.errors[-400:]}", job.folder)
        rows.append(row)
    print_table(["operation", *WAYS], rows)
    return broken.report()


if __name__ == "__main__":
    sys.exit(main())
