"""Locks on files. The system releases them when the process ends, even if it is killed."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import EdgeseqError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
POLL_S = 0.02  # between two tries to take a lock


def lock(file: IO[Any], path: Path) -> None:
    """Lock ``file`` until it is closed; ``path`` is what the lock protects.

    Raises ``EdgeseqError`` if another process has locked it.
    """
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise EdgeseqError(f"Another run is writing {path}: wait for its end.") from error


@contextmanager
def lock_file(at: Path, path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock for ``path`` in the block: a file ``at``, which is deleted at the end.

    Raises ``EdgeseqError`` if another process holds it, or with ``wait`` waits for its end. Also
    raises it if the folder of ``at`` is read-only.
    """
    while True:
        try:
            file = at.open("ab")
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise EdgeseqError(
                f"{at.parent} cannot be written ({error.strerror}): make it writable or choose "
                "another folder."
            ) from error
        try:
            lock(file, path)
            if at.exists() and os.path.samestat(os.fstat(file.fileno()), at.stat()):
                break
        except EdgeseqError:
            file.close()
            if not wait:
                raise
            time.sleep(POLL_S)
            continue
        except BaseException:
            file.close()
            raise
        file.close()  # its owner has just deleted it: lock the next one
    try:
        yield
    finally:
        if sys.platform == "win32":  # an open file cannot be deleted there
            file.close()
            with suppress(PermissionError):  # the next owner has it open
                at.unlink(missing_ok=True)
        else:
            at.unlink(missing_ok=True)
            file.close()
