"""Kill operations at random moments, and look at what is left.

    python -m benchmarks.reliability.kills --moments 200 --seed 0 --work FOLDER

Half of the moments are spread over the whole duration. The other half come shortly after a random
change of the files, so that most of them fall into the writing. After SIGKILL the target must be
absent or whole, or the old one that it was to replace; a file run and a training run may also be
begun. Then the same command must succeed, make the same bytes as a run that was never killed, and
leave nothing beside them. Prints a table; the exit status is 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter, defaultdict

from .jobs import END_S, Job
from .operations import ABSENT, BEGUN, OLD, WHOLE, Operation, Trial, Trials, chosen
from .report import Broken, add_flags, print_table

SHORTLY_S = 0.004  # the longest time between a change and the kill


def main() -> int:
    """Return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description="Kill operations at random moments.")
    parser.add_argument("--moments", type=int, default=200, help="kills of all operations together")
    given = add_flags(parser).parse_args()
    generator = random.Random(given.seed)
    trials, broken = Trials(given.work), Broken()
    operations = chosen(given.operations)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(given.moments):
        operation = operations[number % len(operations)]
        trial = trials.new(operation)
        count = counts[operation.name]
        if fault := _trial(trial, number, generator, count):
            broken.add(f"{operation.name}, moment {number}: {fault}", trial)
        else:
            trial.delete()
    print_table(
        ["operation", "kills", "after its end", ABSENT, OLD, BEGUN, WHOLE, "files left"],
        [_row(operation, counts[operation.name]) for operation in operations],
    )
    return broken.report()


def _row(operation: Operation, count: Counter[str]) -> list[object]:
    names = ("kills", "ended", ABSENT, OLD, BEGUN, WHOLE, "left")
    return [operation.name, *(count[name] for name in names)]


def _trial(trial: Trial, number: int, generator: random.Random, count: Counter[str]) -> str | None:
    """Kill an operation once and repeat it; return what is wrong."""
    assert trial.reference is not None
    job = trial.start()
    if number // 10 % 2:
        job.watch(trial.places, generator.randint(1, trial.reference.changes))
        time.sleep(generator.uniform(0, SHORTLY_S))
    else:
        _let_run(job, generator.uniform(0, trial.reference.seconds))
    was_running = job.poll() is None
    job.kill(alone=generator.random() < 0.5)
    count["kills" if was_running else "ended"] += 1
    if others := job.others_after(END_S):
        return f"processes {others} still run {END_S:.0f} s after the kill"
    found = trial.look()
    if found not in (ABSENT, OLD, BEGUN, WHOLE):
        return f"the target is {found}"
    count[found] += 1
    count["left"] += bool(trial.left())
    return trial.again()


def _let_run(job: Job, seconds: float) -> None:
    end = time.monotonic() + seconds
    while job.poll() is None and time.monotonic() < end:
        time.sleep(0.001)


if __name__ == "__main__":
    sys.exit(main())
