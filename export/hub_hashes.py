"""Whether the files that came from the Hub are those that it has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub.hf_api import RepoSibling

from edgeseq.runtime.errors import CheckpointError

HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def hashes_of(siblings: Iterable[RepoSibling]) -> dict[str, str]:
    """By name, the hashes of the files that the Hub gives one for: of a repository's metadata.

    Large files have the SHA-256 of their bytes, others the SHA-1 that Git names them by.
    """
    known = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in siblings}
    return {name: value for name, value in known.items() if value is not None}


def hashes_in_cache(folder: Path) -> dict[str, str]:
    """The same of a snapshot in the Hub's cache, whose links lead to files named by their hash.

    Empty where the system has no links.
    """
    names = {path.name: path.resolve().name for path in folder.iterdir() if path.is_symlink()}
    return {name: value for name, value in names.items() if HASH.fullmatch(value)}


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise ``CheckpointError`` for a file in ``folder`` whose bytes have another hash."""
    for name, expected in hashes.items():
        path = folder / name
        if path.is_file() and _digest(path, len(expected)) != expected:
            raise CheckpointError(
                f"{path.resolve()} is damaged, it is not the file that the Hub has: delete it and "
                "run the same command again."
            )


def _digest(path: Path, length: int) -> str:
    if length == 64:
        digest = hashlib.sha256()
    else:  # as Git does
        header = f"blob {path.stat().st_size}\0".encode()
        digest = hashlib.sha1(header, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()
