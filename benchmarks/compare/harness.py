"""One measurement of one program, in a process of its own and in that program's environment.

    PYTHON -P harness.py ADAPTER JSON

``ADAPTER`` is a file with a class ``Peer`` (below), ``JSON`` a ``Job``. The last line of standard
output is one JSON object: the measurement, or ``{"error": SENTENCE}`` with exit status 1. Only the
standard library is imported here, so that a program's start, memory and imports are its own.

What is timed, for every program alike:

- ``load_s``: from before the program's first import until it can be asked for a token.
- ``cold_start_s``: from the moment the driver starts the process, Python's own start included, to
  the first token of the workload's prompt, which is the first thing this process generates.
- ``first_token_s``: a call that asks for one token, after a warm-up.
- ``total_s``: a call that asks for all tokens. The time of a token after the first is the
  difference of the two divided by the number of further tokens.

Not timed: tokenizing and decoding of text (prompts are ids), conversion and quantization, and
whatever an operating system does between processes. Prompts are seeded random ids; the end of
sequence is disabled, and a text of another length than asked for is an error.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

IDLE_S = 5.0  # how long a loaded model is watched doing nothing
SETTLE_S = 1.0  # before that: threads that spin a while after a run may do so


class Peer(Protocol):
    """What an adapter's class ``Peer`` offers. Its constructor takes the ``Job`` and loads."""

    PACKAGES: tuple[str, ...]  # distributions whose versions are recorded

    def generate(self, prompts: list[list[int]], new_tokens: int, beams: int) -> list[list[int]]:
        """Exactly ``new_tokens`` ids after each prompt, greedily or the best of ``beams`` beams.

        The prompts are of one length, together in one batch. A prompt of an encoder-decoder is
        what its encoder reads, end of sequence included. The ids are without prompt or start token.
        """


def measure(adapter: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Load the program that ``adapter`` drives and measure it on the workload of ``job``."""
    workload = job["workload"]
    imported = time.perf_counter()
    peer_class = load_adapter(adapter)
    peer: Peer = peer_class(job)
    loaded = time.perf_counter()
    result: dict[str, Any] = {"load_s": loaded - imported, "after_load": memory()}
    shapes = workload["shapes"]
    first = random_prompts(shapes[0], job["vocabulary"])
    checked(peer, first, 1, shapes[0]["beams"])
    result["cold_start_s"] = time.time() - job["started"]
    result["cases"] = [measure_shape(peer, shape, job) for shape in shapes]
    result["after_runs"] = memory()
    if workload.get("idle"):
        result["idle_cpu_share"] = idle_share()
    result["versions"] = versions(peer_class.PACKAGES)
    return result


def load_adapter(path: Path) -> Any:
    """The class ``Peer`` of the file ``path``."""
    spec = importlib.util.spec_from_file_location("adapter", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Peer


def measure_shape(peer: Peer, shape: dict[str, int], job: dict[str, Any]) -> dict[str, Any]:
    """Times of one shape of prompts: lists with one entry a repetition, seconds."""
    beams, repeats = shape["beams"], job["workload"]["repeats"]
    prompts, tokens = random_prompts(shape, job["vocabulary"]), shape["new"]
    firsts, totals = [], []
    for repeat in range(repeats + bool(repeats)):  # the first one warms up
        first = timed(peer, prompts, 1, beams)
        total = timed(peer, prompts, tokens, beams) if tokens > 1 else first
        if repeat:
            firsts.append(first)
            totals.append(total)
    return {**shape, "first_token_s": firsts, "total_s": totals}


def timed(peer: Peer, prompts: list[list[int]], tokens: int, beams: int) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    checked(peer, prompts, tokens, beams)
    return time.perf_counter() - start


def checked(peer: Peer, prompts: list[list[int]], tokens: int, beams: int) -> None:
    """Generate, and raise ``ValueError`` where there are not exactly ``tokens`` after a prompt."""
    lengths = [len(ids) for ids in peer.generate(prompts, tokens, beams)]
    if lengths != [tokens] * len(prompts):
        raise ValueError(f"asked for {tokens} tokens after each of {len(prompts)}, got {lengths}")


def random_prompts(shape: dict[str, int], vocabulary: int) -> list[list[int]]:
    """The same prompts for every program: ids that mean nothing special in any of the models."""
    draw = random.Random(shape["prompt"])
    length = range(shape["prompt"])
    return [[draw.randrange(300, vocabulary - 300) for _ in length] for _ in range(shape["rows"])]


def memory() -> dict[str, float]:
    """Resident memory now and at its peak, and what of it is no file's, in MB of 10^6 bytes."""
    if not (status := Path("/proc/self/status")).exists():
        return {}
    names = {"VmRSS": "resident_mb", "VmHWM": "peak_mb", "RssAnon": "anonymous_mb"}
    fields = (line.split() for line in status.read_text(encoding="utf-8").splitlines())
    return {names[f[0][:-1]]: int(f[1]) * 1.024e-3 for f in fields if f[0][:-1] in names}


def idle_share() -> float:
    """Share of one core that the process uses while nobody asks it for anything."""
    time.sleep(SETTLE_S)
    busy, start = time.process_time(), time.perf_counter()
    time.sleep(IDLE_S)
    return (time.process_time() - busy) / (time.perf_counter() - start)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of the distributions ``packages``."""
    found = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def main() -> None:
    """Measure what the command line names."""
    try:
        result = measure(Path(sys.argv[1]), json.loads(sys.argv[2]))
    except Exception as error:  # whatever a program raises is its result here
        print(json.dumps({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}))
        sys.exit(1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
