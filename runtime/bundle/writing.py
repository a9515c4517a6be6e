"""Write a bundle completely or not at all.

Files are written to a temporary folder beside the target, the manifest last. The folder is then
moved into place. After an interruption there is no incomplete bundle that loads, and an older
bundle in the same place is untouched until the new one is complete.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from ..errors import BundleError
from .manifest import MANIFEST_NAME, Manifest
from .reading import PARTIAL, Bundle, check_path, file_entry


class BundleWriter:
    """A context manager that writes a bundle to ``out``.

    In its ``with`` block, write files to ``writer.folder``, then ``commit`` a manifest. Raises
    ``BundleError`` if ``out`` exists, unless it is an empty folder, or a bundle and ``overwrite``
    is set.
    """

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        check_path(out)
        self._out = out.expanduser().absolute()
        self._check_target(overwrite)

    def _check_target(self, overwrite: bool) -> None:
        if not self._out.exists() or (self._out.is_dir() and not any(self._out.iterdir())):
            return
        if not (self._out / MANIFEST_NAME).is_file():
            raise BundleError(
                f"{self._out} exists and is not a bundle: choose another output folder."
            )
        if not overwrite:
            raise BundleError(
                f"{self._out} already contains a bundle: choose another output folder or pass "
                "--overwrite (in Python: overwrite=True)."
            )

    def __enter__(self) -> BundleWriter:
        parent = self._out.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BundleError(f"{parent} is not a folder: choose another output folder.") from error
        self.folder = parent / f".{self._out.name}{PARTIAL}{secrets.token_hex(4)}"
        self.folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

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
        with tempfile.TemporaryDirectory(
            prefix=f".{self._out.name}.old-", dir=self._out.parent, ignore_cleanup_errors=True
        ) as old:
            kept = self._out.rename(Path(old) / self._out.name)
            try:
                self.folder.rename(self._out)
            except BaseException:
                kept.rename(self._out)
                raise
