"""Let the disk get full in operations, and look at what is left.

    python -m benchmarks.reliability.full_disk --points 8 --work FOLDER

The operation writes to a disk of its own in memory. Half of the points are disks that are too small
from the beginning. In the other half another program fills the disk after some changes of the
operation's files. A failed operation must end with status 1 and one sentence, leave an old target
as it was, no half target and no temporary files, and succeed once there is space. Needs root, to
mount disks; otherwise the limit is the size of a file. Prints a table; the exit status is 1 if a
promise is broken.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from .jobs import DISK, sentence, sizes
from .limits import MIB, PAGE, can_mount, fill, small_disk, small_files
from .operations import OLD, WHOLE, Operation, Trial, Trials, chosen
from .report import Broken, add_flags, print_table

ENOUGH = 256 * MIB  # bytes of a disk that is large enough


def main() -> int:
    """Return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description="Let the disk get full in operations.")
    parser.add_argument("--points", type=int, default=8, help="full disks of each operation")
    given = add_flags(parser).parse_args()
    generator = random.Random(given.seed)
    trials, broken = Trials(given.work), Broken()
    mounts = can_mount()
    rows = []
    for operation in chosen(given.operations):
        count: Counter[str] = Counter()
        for point in range(given.points):
            share = (point // 2 + generator.random()) / (given.points / 2)
            too_small = point % 2 == 0 or not mounts
            with ExitStack() as stack:
                trial, fault = _try(trials, operation, share, too_small, mounts, stack, count)
            if fault:
                broken.add(f"{operation.name}, point {point}: {fault}", trial)
            else:
                trial.delete()
        names = ("too small", "filled", "refused", "completed", "begun", "old")
        rows.append([operation.name, *(count[name] for name in names)])
    head = ["operation", "too small", "filled", "one sentence", "enough", "begun", "old kept"]
    print_table(head, rows)
    return broken.report()


def _try(
    trials: Trials,
    operation: Operation,
    share: float,
    too_small: bool,
    mounts: bool,
    stack: ExitStack,
    count: Counter[str],
) -> tuple[Trial, str | None]:
    """Try an operation on a disk that gets full; return the trial and what is wrong."""
    reference = trials.reference(operation)
    size = ENOUGH
    if too_small:
        old = sum(sizes([trials.inputs.other.bundle]).values()) if operation.replaces else 0
        size = old + 24 * PAGE + int(share * 1.1 * (reference.peak_bytes - old))
    count["too small" if too_small else "filled"] += 1

    def mount(disk: Path) -> None:
        if mounts:
            stack.enter_context(small_disk(disk, size))

    trial = trials.new(operation, mount)
    job = trial.start(*([] if mounts else [partial(small_files, size // 2)]))
    filler = None
    if not too_small:
        job.watch(trial.places, 1 + int(share * reference.changes))
        filler = fill(trial.folder / DISK)
    job.wait()
    if filler is not None:
        filler.unlink()
    if job.status == 0:
        count["completed"] += 1
        return trial, None if trial.look() == WHOLE else f"it ends well and is {trial.look()}"
    if sentence(job) is None:
        return trial, f"it ends with status {job.status} and says {job.errors[-300:]!r}"
    count["refused"] += 1
    print(f"{operation.name}: {sentence(job)}", file=sys.stderr)
    count[trial.look()] += 1
    fault = trial.lost()
    if operation.replaces and trial.look() != OLD:
        fault = f"the old target is {trial.look()}"
    if fault or too_small:
        return trial, fault
    return trial, trial.again()


if __name__ == "__main__":
    sys.exit(main())
