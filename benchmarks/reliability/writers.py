"""Run two processes that write the same target, and look at what is there in the end.

    python -m benchmarks.reliability.writers --times 20 --seed 0 --work FOLDER

The second process starts at a random moment while the first one runs. In half of the pairs it has
other inputs: another checkpoint, other data, another file. Each process must end with status 0, or
with status 1 and one sentence, and one of them with 0. The target must be what one of them makes
alone, to the byte, and nothing may lie beside it. Prints a table; the exit status is 1 if a promise
is broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import replace

from edgeseq.runtime.errors import EdgeseqError

from .jobs import DISK, TMP, Job, sentence, start
from .operations import Digest, Operation, Trial, Trials, chosen
from .report import Broken, add_flags, print_table


def main() -> int:
    """Return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description="Let two processes write the same target.")
    parser.add_argument("--times", type=int, default=20, help="pairs of each operation")
    given = add_flags(parser).parse_args()
    generator = random.Random(given.seed)
    trials, broken = Trials(given.work), Broken()
    rows = []
    for operation in chosen(given.operations):
        if operation.replaces:
            continue
        count: Counter[str] = Counter()
        others = trials.reference(operation, trials.inputs.other).digest
        for number in range(given.times):
            trial = trials.new(operation)
            if fault := _pair(trial, others, number % 2 == 1, generator, count):
                broken.add(f"{operation.name}, pair {number}: {fault}", trial)
            else:
                trial.delete()
        row = [count[name] for name in ("pairs", "both", "one")]
        rows.append([operation.name, *row])
    print_table(["operation", "pairs", "both end well", "one says a sentence"], rows)
    return broken.report()


def _pair(
    trial: Trial,
    others: Digest,
    differs: bool,
    generator: random.Random,
    count: Counter[str],
) -> str | None:
    """Run two processes at once; return what is wrong."""
    assert trial.reference is not None
    second = replace(trial, inputs=trial.inputs.other) if differs else trial
    count["pairs"] += 1
    jobs = [trial.start()]
    time.sleep(generator.uniform(0, 1.05) * trial.reference.seconds)
    folder = trial.folder / "second"
    jobs.append(start(second.command, folder))
    for job in jobs:
        job.wait()
    statuses = [job.status for job in jobs]
    for job in jobs:
        if job.status and sentence(job) is None:
            return f"a process ends with status {job.status} and says {job.errors[-400:]!r}"
    if 0 not in statuses:
        return f"both fail: {[sentence(job) for job in jobs]}"
    count["both" if statuses == [0, 0] else "one"] += 1
    _show(trial.operation, jobs)
    try:
        found = trial.operation.digest(trial.target)
    except (OSError, ValueError, KeyError, EdgeseqError) as error:
        return f"the target is not whole: {error}"
    wanted = [trial.reference.digest, others]
    if trial.operation.target == "edgeseq" and differs:
        wanted.append({**trial.reference.digest, **others})  # a cache has entries of both
    if found not in wanted:
        return "the target is a mixture"
    left = [*trial.left(), *(path.name for path in (folder / DISK / TMP).iterdir())]
    return f"they leave {', '.join(left)}" if left else None


def _show(operation: Operation, jobs: list[Job]) -> None:
    for job in jobs:
        if said := sentence(job):
            print(f"{operation.name}: {said}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
