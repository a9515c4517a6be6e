"""Writing a bundle so that it is there as a whole or not at all.

Files are made in a temporary folder beside the target, the manifest last, and the folder is then
moved into place. Whatever interrupts this leaves no folder that loads, and nothing that was there
before is touched until the new bundle is complete.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from ..errors import BundleError
from .manifest import MANIFEST_NAME, Manifest
from .reading import PARTIAL, Bundle, file_entry


class BundleWriter:
    """``with BundleWriter(out) as writer``: fill ``writer.folder``, then ``commit`` a manifest.

    Raises ``BundleError`` where ``out`` exists, unless it is an empty folder, or a bundle and
    ``overwrite`` is set.
    """

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        self._out = out.absolute()
        self._check_target(overwrite)

    def _check_target(self, overwrite: bool) -> None:
        if not self._out.exists() or (self._out.is_dir() and not any(self._out.iterdir())):
            return
        if not (self._out / MANIFEST_NAME).is_file():
            raise BundleError(f"{self._out} exists and is not a bundle: choose another place.")
        if not overwrite:
            raise BundleError(
                f"{self._out} holds a bundle: choose another place or pass --overwrite."
            )

    def __enter__(self) -> BundleWriter:
        parent = self._out.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BundleError(f"{parent} is not a folder: choose another place.") from error
        self.folder = parent / f".{self._out.name}{PARTIAL}{secrets.token_hex(4)}"
        self.folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def commit(self, manifest: Manifest) -> Bundle:
        """Complete ``manifest`` with the files' sizes and hashes and move all into place."""
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
                "programs that have files there open."
            ) from error
        return Bundle(self._out, manifest)

    def _move_into_place(self) -> None:
        if not self._out.exists():
            self.folder.rename(self._out)
            return
        with tempfile.TemporaryDirectory(
            prefix=f".{self._out.name}.old-", dir=self._out.parent, ignore_cleanup_errors=True
        ) as old:
            kept = self._out.rename(Path(old) / self._out.name)
            try:
                self.folder.rename(self._out)
            except BaseException:
                kept.rename(self._out)
                raise
