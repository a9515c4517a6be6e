"""One measurement of one bundle, in its own process.

    python -m edgeseq.runtime.bench.worker JSON PARENT

``JSON`` is a ``Workload``, ``PARENT`` the id of the parent process. The last line of
standard output is one JSON object: the measurement, or ``{"error": SENTENCE}`` with exit status 1.
Only edgeseq's errors are imported before the clock starts.

Generation is greedy or beam search, from prompts of seeded random ids, without an end-of-sequence
token and without penalties, so that bundles with different defaults are comparable. A warm-up
generation comes first and does not count.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import EdgeseqError

if TYPE_CHECKING:
    from ..model import Model
    from ..results import GenerationResult

OPTIONS: dict[str, Any] = {
    "eos_token_id": None,
    "do_sample": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
SOURCE_TOKENS = 32  # tokens that the encoder reads when the decoder's speed is measured
WARM_UP_TOKENS = 8  # prompt tokens, and new tokens, of the warm-up
LOADED = "loaded"  # the line that asks the parent to read this process' memory
STATUS = Path("/proc/self/status")
WATCH_S = 1.0  # seconds between two checks that the parent still runs


class Run(NamedTuple):
    """One run of a session."""

    session: int  # the session's `id`
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The measurements to take of one bundle; all lengths fit the model."""

    folder: str
    load_options: Mapping[str, Any]  # keyword arguments of ``load``
    prompt_lengths: Sequence[int]  # lengths of prompts or sources for the time to first token
    new_tokens: Sequence[tuple[int, int]]  # pairs of context length and new tokens
    repeats: int  # measurements of each time to first token
    rows: int = 1  # prompts of a batch
    beams: int = 1


def measure(workload: Workload, loaded: Callable[[], None]) -> dict[str, Any]:
    """Load the bundle once and measure it; return the figures.

    ``loaded`` is called once the bundle is loaded. Keys name their units. A figure that depends on
    a length is a mapping from the length, as a string. Speeds are those of all rows together, beams
    not counted. A figure is None if the system does not
    provide it. ``versions`` holds the versions of ONNX Runtime and numpy, ``kernels`` the name of
    the kernels that computed.
    """
    started = time.perf_counter()
    from ..loading import load
    from ..ort.engine import open_engine  # noqa: F401  # ``load`` imports it late

    imported = time.perf_counter()
    model = load(workload.folder, **workload.load_options)
    load_s = time.perf_counter() - imported
    loaded()
    _generate(model, workload, WARM_UP_TOKENS, WARM_UP_TOKENS)
    first_token_ms = {
        str(length): median(
            1e3 * _generate(model, workload, length, 1).timings.first_token_s
            for _ in range(workload.repeats)
        )
        for length in workload.prompt_lengths
    }
    decodes = {
        str(context): _decode(model, workload, context, count)
        for context, count in workload.new_tokens
    }
    return {
        "versions": {name: sys.modules[name].__version__ for name in ("onnxruntime", "numpy")},
        "kernels": model.kernels,
        "import_ms": 1e3 * (imported - started),
        "load_s": load_s,
        "first_token_ms": first_token_ms,
        "tokens_per_s": {context: decode[0] for context, decode in decodes.items()},
        "loop_overhead_ms": {context: decode[1] for context, decode in decodes.items()},
        "peak_memory_mb": megabytes(peak_bytes()),
    }


def _decode(model: Model, workload: Workload, context: int, new_tokens: int) -> tuple[float, float]:
    """Return tokens/s after the first token, and the median ms of a step outside all sessions."""
    with _timed_runs() as runs:
        timings = _generate(model, workload, context, new_tokens, after_encoder=True).timings
    gaps_s = gaps_of(runs)[2 - new_tokens :]  # without the gap before the first decode step
    count = workload.rows * (new_tokens - 1)
    return count / (timings.total_s - timings.first_token_s), 1e3 * median(gaps_s)


def gaps_of(runs: Sequence[Run]) -> list[float]:
    """Return the seconds without a running session before each run of the decoder.

    The decoder is the session with the most runs; among several, the one that ran first: on a
    device, a graph that finds the highest logits may run after each of its runs. The very first run
    has no gap before it.
    """
    sessions = [run.session for run in runs]
    decoder = max(dict.fromkeys(sessions), key=sessions.count)
    gaps_s, gap_s = [], 0.0
    for before, run in pairwise(runs):
        gap_s += run.start_s - before.end_s
        if run.session == decoder:
            gaps_s.append(gap_s)
            gap_s = 0.0
    return gaps_s


def _generate(
    model: Model, workload: Workload, length: int, new_tokens: int, *, after_encoder: bool = False
) -> GenerationResult:
    """Return the first result of generating after a batch of prompts of ``length`` tokens.

    ``after_encoder``: the decoder reads the prompt, and an encoder reads ``SOURCE_TOKENS``.
    """
    options = {**OPTIONS, "num_beams": workload.beams, "max_new_tokens": new_tokens}
    manifest = model.bundle.manifest
    if after_encoder and manifest.has_encoder:
        from ..request.resolving import resolve_options

        start = resolve_options(manifest.generation, {}, manifest.kind).decoder_start
        options["decoder_input_ids"] = [start, *_ids(model, length - 1)]
        length = SOURCE_TOKENS
    prompts = [_ids(model, length, row) for row in range(workload.rows)]
    return model.generate_ids(prompts, **options)[0]


def _ids(model: Model, count: int, seed: int = 0) -> list[int]:
    import numpy as np

    sizes = model.bundle.manifest.dimensions
    vocabulary = min(sizes.vocabulary, sizes.prompt_vocabulary)
    ids: list[int] = np.random.default_rng(seed).integers(vocabulary, size=count).tolist()
    return ids


@contextmanager
def _timed_runs() -> Iterator[list[Run]]:
    """Collect the runs of all sessions of this process."""
    from ..ort.graph_session import GraphSession

    runs: list[Run] = []
    run_untimed = GraphSession.run_with_iobinding

    def run(session: GraphSession, *arguments: Any) -> None:
        started = time.perf_counter()
        run_untimed(session, *arguments)
        runs.append(Run(id(session), started, time.perf_counter()))

    GraphSession.run_with_iobinding = run  # type: ignore[method-assign, assignment]
    try:
        yield runs
    finally:
        GraphSession.run_with_iobinding = run_untimed  # type: ignore[method-assign]


def megabytes(size_bytes: int | None) -> float | None:
    """Return bytes as megabytes (10^6)."""
    return None if size_bytes is None else size_bytes / 1e6


def peak_bytes() -> int | None:
    """Return the peak of this process' resident memory, mapped files included; None if unknown.

    psutil reports it only on Windows. Linux' ``getrusage`` starts with the parent's peak.
    """
    if sys.platform == "linux":
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            field, _, value = line.partition(":")
            if field == "VmHWM":
                return 1024 * int(value.split()[0])
        return None
    elif sys.platform == "darwin":  # noqa: RET505  # mypy takes these for branches of platforms
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    else:
        import psutil  # late: its own memory must not be measured

        return getattr(psutil.Process().memory_info(), "peak_wset", None)


def end_with(parent: int) -> None:
    """End this process when ``parent`` has ended: an interrupted start may leave it running.

    This has no effect if the system keeps the id of a parent that has ended, as Windows does.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def wait_for_parent() -> None:
    """Print ``LOADED``, and wait until the parent has read this process' memory."""
    print(LOADED, flush=True)
    sys.stdin.readline()


def main() -> int:
    """Measure and print the JSON object; return the exit status."""
    end_with(int(sys.argv[2]))
    try:
        print(json.dumps(measure(Workload(**json.loads(sys.argv[1])), wait_for_parent)))
    except (EdgeseqError, OSError) as error:
        print(json.dumps({"error": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
