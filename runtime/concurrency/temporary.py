"""Temporary folders that are deleted even if their process is killed: the next one deletes them."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import EdgeseqError
from .file_lock import lock_file

PREFIX, LOCK = ".edgeseq-", ".lock"


@contextmanager
def temporary_folder(place: Path | None = None) -> Iterator[Path]:
    """Yield a new hidden folder in ``place``, which is deleted at the end of the block.

    ``place``: None for the system's folder for temporary files. A lock beside the folder says that
    its process runs. Folders of this user whose process has ended are deleted first.
    """
    place = Path(tempfile.gettempdir()) if place is None else place
    for left in place.glob(f"{PREFIX}*{LOCK}"):
        # Its process runs, or another process deletes it.
        with suppress(EdgeseqError, OSError):
            if _is_own_file(left):
                with lock_file(left, left):
                    shutil.rmtree(left.with_suffix(""), ignore_errors=True)
    folder = place / f"{PREFIX}{secrets.token_hex(8)}"
    with lock_file(folder.with_suffix(LOCK), folder, wait=True):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_own_file(path: Path) -> bool:
    """Return whether ``path`` is a file of this user, and no link that another user made."""
    status = path.lstat()
    is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return is_own and stat.S_ISREG(status.st_mode)
