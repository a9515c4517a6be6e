"""Memory and time for a long source: what a T5 bundle needs to read it and start to answer.

    python benchmarks/long_source.py BUNDLE --tokens 4096

One generation of a few tokens from a source of random tokens, in this process alone. Memory is the
process's resident set at its largest, pages that are mapped from the bundle included, 1 MB = 10^6
bytes; time is that to the first token, the encoder's work included. The last line is one JSON
object. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from edgeseq.runtime import EdgeseqError, load

NEW_TOKENS = 8


def main() -> None:
    """Measure, print two lines and the JSON object."""
    parser = argparse.ArgumentParser(description="Memory and time for a long source.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=4096, help="of the source")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    model = load(arguments.bundle, threads=arguments.threads)
    loaded_mb = peak_mb()
    vocabulary = model.bundle.manifest.dimensions.vocabulary
    source = np.random.default_rng(0).integers(vocabulary, size=arguments.tokens).tolist()
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    result = model.generate_ids([source], **options)[0]
    figures = {
        "source_tokens": arguments.tokens,
        "peak_mb_loaded": round(loaded_mb, 1),
        "peak_mb": round(peak_mb(), 1),
        "first_token_s": round(result.timings.first_token_s, 2),
        "onnxruntime": onnxruntime.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    print(f"peak after loading {loaded_mb:6.1f} MB, after generating {peak_mb():6.1f} MB")
    print(f"first token after {result.timings.first_token_s:.2f} s")
    print(json.dumps(figures))


def peak_mb() -> float:
    """The largest resident set so far; Linux counts it in KiB, macOS in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
