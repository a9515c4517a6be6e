"""One writer of a file at a time, also among processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, Any

from edgeseq.runtime.errors import EdgeseqError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def lock(file: IO[Any], path: Path) -> None:
    """Keep others from locking ``file``, which is at ``path``, until it is closed.

    Raises ``EdgeseqError`` where another has. The system lets go of it when a process ends.
    """
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise EdgeseqError(f"Another run is writing {path}: wait for its end.") from error
