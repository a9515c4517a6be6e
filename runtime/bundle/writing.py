"""Write a bundle completely or not at all.

Files are written to a temporary folder beside the target, the manifest last. The folder is then
moved into place. After an interruption there is no incomplete bundle that loads, and an older
bundle in the same place is untouched until the new one is complete. What a killed process left
is deleted when the same bundle is written again.

Where the system can exchange two folders in one step (Linux), a bundle is at the target at any
time. Elsewhere the old bundle has another name for a moment; after a kill in this moment, the next
run that writes the same bundle moves it back.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from glob import escape
from pathlib import Path

from ..concurrency.file_lock import lock_file
from ..errors import BundleError, EdgeseqError
from .manifest import MANIFEST_NAME, Manifest
from .reading import PARTIAL, Bundle, check_path, file_entry

OLD = ".old-"  # part of the name of a folder with the bundle that is being replaced
AT_CWD, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
OTHER_BYTES = 16 << 20  # a generous estimate of graphs, tokenizer and manifest


class BundleWriter:
    """A context manager that writes a bundle to ``out``.

    In its ``with`` block, write files to ``writer.folder``, then ``commit`` a manifest. Raises
    ``BundleError`` if ``out`` exists, unless it is an empty folder, or a bundle and ``overwrite``
    is set; also if another process is writing to ``out``.
    """

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        check_path(out)
        self._out = out.expanduser().absolute()
        self._overwrite = overwrite
        self._check_target()

    def _check_target(self) -> None:
        if not self._out.exists() or (self._out.is_dir() and not any(self._out.iterdir())):
            return
        if not (self._out / MANIFEST_NAME).is_file():
            raise BundleError(
                f"{self._out} exists and is not a bundle: choose another output folder."
            )
        if not self._overwrite:
            raise BundleError(
                f"{self._out} already contains a bundle: choose another output folder or pass "
                "--overwrite (in Python: overwrite=True)."
            )

    def __enter__(self) -> BundleWriter:
        parent = make_parent(self._out)
        with ExitStack() as stack:
            try:
                stack.enter_context(lock_file(parent / f".{self._out.name}.lock", self._out))
            except EdgeseqError as error:
                raise BundleError(str(error)) from error
            self._restore()
            self._check_target()  # another run may have written it since
            prefix = f".{self._out.name}{PARTIAL}"
            for left in parent.glob(f"{escape(prefix)}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            self.folder = parent / f"{prefix}{secrets.token_hex(4)}"
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.folder.mkdir()
            self._held = stack.pop_all()
        return self

    def _restore(self) -> None:
        """Move a bundle back that a killed process was replacing."""
        for left in self._out.parent.glob(f"{escape(f'.{self._out.name}{OLD}')}*"):
            kept = left / self._out.name
            if kept.exists() and not self._out.exists():
                kept.rename(self._out)
            shutil.rmtree(left, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def check_space(self, needed: int) -> int:
        """Return the bytes that are left on the disk once weights of ``needed`` bytes are written.

        Raises ``BundleError`` if there is too little free space.
        """
        parent = self._out.parent
        free = shutil.disk_usage(parent).free
        needed += OTHER_BYTES
        if free < needed:
            raise BundleError(
                f"{parent} has {free / 1e9:.3g} GB of free space, and {needed / 1e9:.3g} GB are "
                "needed there for a while: free some space or choose another output folder."
            )
        return free - needed

    def commit(self, manifest: Manifest) -> Bundle:
        """Add the files' sizes and hashes to ``manifest``, and move the bundle into place.

        Raises ``BundleError`` if a program has files of an older bundle there open.
        """
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        files = {path.relative_to(self.folder).as_posix(): file_entry(path) for path in paths}
        manifest = replace(manifest, files=files).sealed()
        text = manifest.to_json()
        (self.folder / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")
        try:
            self._move_into_place()
        except PermissionError as error:
            raise BundleError(
                f"The bundle cannot be moved to {self._out} ({error.strerror or error}): close the "
                "programs that have files of this folder open."
            ) from error
        return Bundle(self._out, manifest)

    def _move_into_place(self) -> None:
        if not self._out.exists():
            self.folder.rename(self._out)
            return
        if _exchange(self.folder, self._out):
            return  # the old bundle is deleted in place of the folder
        with tempfile.TemporaryDirectory(
            prefix=f".{self._out.name}{OLD}", dir=self._out.parent, ignore_cleanup_errors=True
        ) as old:
            kept = self._out.rename(Path(old) / self._out.name)
            try:
                self.folder.rename(self._out)
            except BaseException:
                kept.rename(self._out)
                raise


def make_parent(out: Path) -> Path:
    """Make the folder that ``out`` lies in and return it; raise ``BundleError`` if it is a file."""
    parent = out.expanduser().absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BundleError(f"{parent} is not a folder: choose another output folder.") from error
    return parent


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; return whether the system can."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    return bool(rename(AT_CWD, os.fsencode(one), AT_CWD, os.fsencode(other), EXCHANGE) == 0)
