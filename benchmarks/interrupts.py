"""Interrupt a file run at random moments and count how the processes end.

    python benchmarks/interrupts.py --runs 300

Each run is `edgeseq run TASK --demo t5 --input FILE --output FILE`, which gets SIGINT (Ctrl-C) at a
random moment between its start and the end of a run that nobody interrupts. A process may end with
status 130 (interrupted), with SIGINT itself (interrupted before the command line was ready), with
1 inside Python's own start, or with 0 (it was done before). Anything else is a failure: a process
that hangs, an error, any other signal, such as SIGABRT after corrupted memory. The last line is one
JSON object. The exit status is 1 if a run failed, or if most were not interrupted.
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
ENDS = {0, 130, -signal.SIGINT}
PYTHON_START = b"Fatal Python error: init_"  # Python exits with 1 if its own start is interrupted
HANG_S = 30.0  # a process that has not ended so long after Ctrl-C hangs


def main() -> int:
    """Return 1 if a process ended as it should not, or if most were not interrupted."""
    parser = argparse.ArgumentParser(description="Interrupt file runs at random moments.")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--lines", type=int, default=400, help="inputs of a run")
    parser.add_argument("--workers", type=int, default=1, help="processes of a run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # A shell may start this script with SIGINT ignored, which its processes would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    generator = random.Random(given.seed)
    ends: Counter[int] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pronounce.toml").write_text(TEMPLATE, encoding="utf-8")
        words = "\n".join(WORDS[i % len(WORDS)] for i in range(given.lines))
        (folder / "words.txt").write_text(words + "\n", encoding="utf-8")
        _, _, whole_s = run(folder, given.workers, None)
        for number in range(given.runs):
            status, err, _ = run(folder, given.workers, generator.uniform(0.0, whole_s))
            ends[status] += 1
            if status not in ENDS and not (status == 1 and PYTHON_START in err):
                failed += 1
                print(f"run {number} ended with status {status}", file=sys.stderr, flush=True)
                sys.stderr.buffer.write(err)
    counts = {str(status): count for status, count in sorted(ends.items())}
    print(json.dumps({"runs": given.runs, "whole_s": whole_s, "ends": counts, "failed": failed}))
    return 1 if failed or ends[0] > given.runs / 2 else 0


def run(folder: Path, workers: int, interrupt_after_s: float | None) -> tuple[int, bytes, float]:
    """Run the command; return its exit status (negative: a signal), its errors and its seconds."""
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-X", "faulthandler", "-m", "edgeseq.cli"]
    command += ["run", str(folder / "pronounce.toml")]
    command += ["--demo", "t5", "--input", str(folder / "words.txt"), "--output", str(out)]
    command += ["--workers", str(workers)]
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
    return process.returncode, err, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
