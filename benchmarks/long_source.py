"""Measure the memory and the time to first token of a T5 bundle for a long source.

    python benchmarks/long_source.py BUNDLE --tokens 4096

Generates a few tokens from a source of random tokens, once, in this process. Memory is the peak of
the process's resident set in MB of 10^6 bytes, pages mapped from the bundle included. The time to
first token includes the encoder. The last line is one JSON object. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from edgeseq.runtime import EdgeseqError, load

NEW_TOKENS = 8


def main() -> None:
    """Measure and print two lines and the JSON object."""
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
    """Return the peak of the resident set in MB. Linux reports KiB, macOS bytes."""
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    sys.exit("The peak of the memory is not measured on Windows.")


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
