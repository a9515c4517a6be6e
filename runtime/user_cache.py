"""Where programs of this user keep what they can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """edgeseq's folder in the user's cache: by the customs of Linux, macOS or Windows."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData/Local") / "edgeseq" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgeseq"
    # The variable has to hold an absolute path to count (XDG Base Directory Specification).
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "edgeseq"
