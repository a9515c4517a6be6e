"""Where a text is kept: a draft for each window, so that no text is lost, and the user's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from PySide6.QtCore import QLockFile, QSaveFile


class Saved(NamedTuple):
    """A text, and the file it belongs to, if any."""

    text: str
    path: Path | None
    is_changed: bool  # whether the text differs from the file


class Draft:
    """The draft of one window. Its lock keeps other windows and processes away from it."""

    def __init__(self, path: Path, lock: QLockFile) -> None:
        self.path = path
        self._lock = lock

    def read(self) -> Saved:
        """Return the draft; an empty text if there is none.

        Raises ``OSError`` or ``ValueError`` if the file cannot be read.
        """
        if not self.path.exists():
            return Saved("", None, False)
        content = json.loads(self.path.read_text(encoding="utf-8"))
        path = content["path"]
        return Saved(content["text"], Path(path) if path else None, bool(content["is_changed"]))

    def write(self, saved: Saved) -> None:
        """Keep a text: the old draft stays until the new one is whole."""
        content = {
            "text": saved.text,
            "path": str(saved.path) if saved.path else None,
            "is_changed": saved.is_changed,
        }
        write_text(self.path, json.dumps(content))

    def close(self) -> None:
        """Remove a draft that holds nothing of its own, and let other windows have its place."""
        saved = self.read()
        if not saved.is_changed or not saved.text.strip():
            self.path.unlink(missing_ok=True)
        self._lock.unlock()


def open_drafts(folder: Path) -> list[Draft]:
    """Return the drafts that earlier windows left, and that no window has open now."""
    numbers = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())
    found = (open_draft(folder, number) for number in numbers)
    return [draft for draft in found if draft is not None]


def new_draft(folder: Path) -> Draft:
    """Return an empty draft."""
    number = 1
    while True:
        if not (folder / f"{number}.json").exists():
            draft = open_draft(folder, number)
            if draft is not None:
                return draft
        number += 1


def open_draft(folder: Path, number: int) -> Draft | None:
    """Return a draft by its number; None if another window has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = QLockFile(str(folder / f"{number}.lock"))
    lock.setStaleLockTime(0)  # a lock lasts as long as its process
    if not lock.tryLock(0):
        if lock.error() is not QLockFile.LockError.LockFailedError:
            raise PermissionError(f"The folder {folder} cannot be written: drafts are kept there.")
        return None
    return Draft(folder / f"{number}.json", lock)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; ``OSError`` if that is impossible."""
    file = QSaveFile(str(path))
    is_open = file.open(QSaveFile.OpenModeFlag.WriteOnly)
    if not is_open or file.write(text.encode("utf-8")) < 0 or not file.commit():
        raise OSError(f"{path} cannot be written: {file.errorString()}.")


def read_text(path: Path) -> str:
    """Return the text of a file; ``ValueError`` if it is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not a text in UTF-8: save it as UTF-8 first.") from error
    return text
