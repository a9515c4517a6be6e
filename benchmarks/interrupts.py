"""Interrupt a file run at random moments and count how the processes end.

    python benchmarks/interrupts.py --runs 300

Each run is `edgeseq run TASK --demo t5 --input FILE --output FILE`, which gets SIGINT (Ctrl-C) at a
random moment between its start and the end of a run that nobody interrupts. A process may end with
status 130 (interrupted), with SIGINT itself (interrupted before the command line was ready), with 1
(interrupted inside Python's own start), or with 0 (it was done before). Any other signal, such as
SIGABRT after corrupted memory, is a failure, and so is a process that hangs.
The last line is one JSON object; the exit status is 1 if a run failed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TEMPLATE = """\
title = "Pronounce"
["encoder-decoder"]
prompt = "pronounce: {text}"
"""
WORDS = ("table", "fox", "princess", "algorithm", "wonderful", "key", "elephant", "night")
ENDS = {0, 1, 130, -signal.SIGINT}
HANG_S = 30.0  # a process that has not ended so long after Ctrl-C hangs


def main() -> int:
    """Return 1 if a process ended by another signal than SIGINT, or hung."""
    parser = argparse.ArgumentParser(description="Interrupt file runs at random moments.")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--lines", type=int, default=400, help="inputs of a run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    ends: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pronounce.toml").write_text(TEMPLATE, encoding="utf-8")
        words = "\n".join(WORDS[i % len(WORDS)] for i in range(given.lines))
        (folder / "words.txt").write_text(words + "\n", encoding="utf-8")
        whole_s = run(folder, None)[1]
        for number in range(given.runs):
            status, _ = run(folder, generator.uniform(0.0, whole_s))
            ends[status] += 1
            if status not in ENDS:
                print(f"run {number} ended with status {status}", file=sys.stderr, flush=True)
    failed = sum(count for status, count in ends.items() if status not in ENDS)
    counts = {str(status): count for status, count in sorted(ends.items())}
    print(json.dumps({"runs": given.runs, "whole_s": whole_s, "ends": counts, "failed": failed}))
    return 1 if failed else 0


def run(folder: Path, interrupt_after_s: float | None) -> tuple[int, float]:
    """Run the command; return its exit status (negative: a signal) and its seconds."""
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "edgeseq.cli",
        "run",
        str(folder / "pronounce.toml"),
    ]
    command += ["--demo", "t5", "--input", str(folder / "words.txt"), "--output", str(out)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        _, err = process.communicate(timeout=interrupt_after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler prints where each thread is
            _, err = process.communicate()
    if process.returncode not in ENDS - {1} and b"init_import_site" not in err:
        sys.stderr.buffer.write(err)
    return process.returncode, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
