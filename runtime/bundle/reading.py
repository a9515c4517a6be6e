"""A bundle on disk: a folder with a manifest and the files that it lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError, reason
from .manifest import CARD_NAME, MANIFEST_NAME, WEIGHTS_FILE_NAME, FileEntry, Manifest, shown

CHUNK_BYTES = 1 << 20
PARTIAL = ".partial-"  # part of the name of a folder that is being written


@dataclass(frozen=True)
class Bundle:
    """A folder with a valid manifest, whose files are those that the manifest lists.

    Attributes:
        folder: The folder on disk.
        manifest: The content of ``edgeseq.json``.
    """

    folder: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists."""
        return self.folder / name


def check_path(path: Path) -> None:
    """Raise ``BundleError`` for a path that ONNX Runtime cannot open."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise BundleError(
            f"The path {shown} has bytes that are not UTF-8, and ONNX Runtime cannot open it: "
            "rename the folder."
        ) from error


def open_bundle(folder: Path, *, verify: bool = False) -> Bundle:
    """Return the bundle in ``folder``, read and checked.

    The size of every file is checked, and the hash of all but the weights: they are small, and what
    reads them is native code, which may do anything with damaged ones. ``verify``: also check the
    hash of the weights and of the model card, and the seal of the manifest. Raises ``BundleError``
    for a folder that is not a bundle, is damaged, has a newer schema, or names files outside
    itself.
    """
    check_path(folder)
    manifest_path = folder / MANIFEST_NAME
    if folder.is_file():
        raise BundleError(f"{folder} is a file: pass the folder of a bundle.")
    if not folder.is_dir():
        raise BundleError(f"There is no folder {folder}: pass the folder of a bundle.")
    name = folder.absolute().name
    if name.startswith(".") and PARTIAL in name:
        raise BundleError(
            f"{folder} is left over from an interrupted export or quantization: delete it and run "
            "the command again."
        )
    if not manifest_path.is_file():
        is_checkpoint = (folder / "config.json").is_file()
        step = (
            "convert it with `edgeseq export`" if is_checkpoint else "pass the folder of a bundle"
        )
        raise BundleError(f"{folder} has no {MANIFEST_NAME}, so it is not a bundle: {step}.")
    try:
        text = manifest_path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BundleError(f"{manifest_path} is not UTF-8 text: export the bundle again.") from error
    except OSError as error:
        raise _cannot_be_read(manifest_path, error) from error
    bundle = Bundle(folder, Manifest.from_json(text))
    for name, entry in bundle.manifest.files.items():
        if name == CARD_NAME and not verify:
            continue  # nothing reads it, so its owner may change it
        _check_file(bundle.file(name), entry, hashed=verify or name != WEIGHTS_FILE_NAME)
    if verify:
        bundle.manifest.check_seal(text)
    return bundle


def file_entry(path: Path) -> FileEntry:
    """Return the size and hash of a file."""
    import hashlib  # late: it loads OpenSSL, which only this needs

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest.hexdigest())


def _check_file(path: Path, entry: FileEntry, *, hashed: bool) -> None:
    """Raise ``BundleError`` for a file of another size, or if ``hashed``, of another hash."""
    try:
        if not path.is_file():
            raise BundleError(f"The bundle lacks {path.name!r}: copy or export it again.")
        size = path.stat().st_size
        if size != entry.size_bytes:
            raise BundleError(
                f"{path} is damaged or incomplete (it has {size} bytes instead of "
                f"{shown(entry.size_bytes)}): copy or export the bundle again."
            )
        if hashed and file_entry(path).sha256 != entry.sha256:
            raise BundleError(
                f"{path} is damaged (its hash differs from the one in {MANIFEST_NAME}): copy or "
                "export the bundle again."
            )
    except OSError as error:
        raise _cannot_be_read(path, error) from error


def _cannot_be_read(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{shown(str(path))} cannot be read ({error.strerror or reason(error)}): copy or "
        "export the bundle again."
    )
