"""Measure what a loaded, idle model costs a program: processor time, slower other thread pools.

    python benchmarks/manners.py [BUNDLE]

Two measurements: the processor time of an idle model after a generation, and the time of a matrix
product in numpy, which has its own thread pool, with and without a loaded model, in turns. One line
gives the default number of threads: it is lower in a container with a quota of processor time.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time

import numpy as np

from edgeseq.runtime import load
from edgeseq.runtime.ort.cpu import usable_cores
from edgeseq.runtime.ort.graph_session import runtime_version

IDLE_S = 10.0
SETTLE_S = 0.2
ROUNDS = 9
PRODUCTS = 20
SIZE = 1024


def idle_share(bundle: str | None) -> float:
    """Return the share of one core that an idle model uses."""
    with load(bundle) as model:
        model.generate("Once upon a time", max_new_tokens=16)
        time.sleep(SETTLE_S)
        before = time.process_time()
        time.sleep(IDLE_S)
        return (time.process_time() - before) / IDLE_S


def product_ms() -> float:
    """Return the median ms of a matrix product."""
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    times = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    bundle = sys.argv[1] if len(sys.argv) > 1 else None
    found: dict[str, object] = {
        "system": f"{platform.system()} {platform.machine()}",
        "onnxruntime": runtime_version(),
        "default_threads": usable_cores(),
        "idle_percent_of_a_core": round(100 * idle_share(bundle), 4),
    }
    product_ms()
    without, beside = [], []
    for _ in range(ROUNDS):
        without.append(product_ms())
        with load(bundle) as model:
            model.generate("Once upon a time", max_new_tokens=16)
            beside.append(product_ms())
    ratios = sorted(b / w for b, w in zip(beside, without, strict=True))
    found["product_without_ms"] = round(statistics.median(without), 3)
    found["product_beside_ms"] = round(statistics.median(beside), 3)
    found["ratio"] = {
        "median": round(statistics.median(ratios), 3),
        "min": round(ratios[0], 3),
        "max": round(ratios[-1], 3),
    }
    for name, value in found.items():
        print(f"{name:24} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
