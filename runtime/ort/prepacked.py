"""Prepacked weights in the user's cache folder, and the path of that folder.

When ONNX Runtime opens a graph, it copies the weights into the layout of its kernels.
``prepacked_graph`` keeps the result as a cache entry: a graph, and a file of packed weights that is
mapped, so that no memory has to be filled.

The layout depends on the processor and on the version of ONNX Runtime. An entry's name is therefore
a hash of both and of the hashes of the bundle's files. An entry is used only if its record agrees
and its files have the recorded sizes, and the graph its hash. When ONNX Runtime opens an entry, it
packs each weight again and uses the kept one only if both are equal.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle.manifest import WEIGHTS_FILE_NAME, Manifest
from ..bundle.reading import file_entry
from ..concurrency.file_lock import lock_file
from ..errors import BundleError, EdgeseqError, reason
from ..native.library import Kernels, processor_kernels
from .cpu import instructions, processor
from .graph_session import MappedWeights, runtime_version, save_prepacked

GRAPH_NAME = "graph.onnx"
RECORD_NAME = "prepacked.json"
LOCK_NAME = ".lock"
PART_NAME = ".part"
KEY_DIGITS = 32
ALIGNMENT = 64  # bytes; kernels rely on this alignment of packed weights
PACKED_AT = re.compile(rb"\|(\d+);\d+;0")  # how a graph gives the offset of packed weights
Record = Mapping[str, str]


def prepacked_graph(
    folder: Path,
    manifest: Manifest,
    role: str,
    shared: MappedWeights,
    kernels: Kernels,
    *,
    verify: bool = False,
) -> Path:
    """Return the path of the prepacked graph ``role`` of the bundle in ``folder``.

    Makes the cache entry if it is missing, and then removes entries of the same files for other
    processors or versions. ``kernels``: see ``load``. The entry is made again if its files have
    other sizes than recorded, or its graph has another hash. ``verify``: check the hash of its
    weights too. Raises ``BundleError`` if the entry cannot be written.
    """
    wanted = _record(manifest, role, kernels)
    entries = cache_folder() / "prepacked"
    entry = entries / _key(wanted)
    if not _is_sound(entry, wanted, verify=verify):
        try:
            entries.mkdir(parents=True, exist_ok=True)
            with lock_file(entries / LOCK_NAME, entries, wait=True):
                if not _is_sound(entry, wanted, verify=verify):  # else another process made it
                    _make(entry, wanted, folder / manifest.graphs[role], shared, kernels)
        except (OSError, EdgeseqError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(
                f"Prepacked weights cannot be written to {entries} ({reason(error)}): make the "
                "folder writable and free space on its disk, or load the bundle without prepack."
            ) from error
    return entry / GRAPH_NAME


def _record(manifest: Manifest, role: str, kernels: Kernels) -> Record:
    """Return an entry's record: hashes of the bundle's files, ONNX Runtime and the processor."""
    graph = manifest.graphs[role]
    return {
        "graph": manifest.files[graph].sha256,
        "weights": manifest.files[WEIGHTS_FILE_NAME].sha256,
        "onnxruntime": runtime_version(),
        "processor": processor(),
        "instructions": instructions(),
        "kernels": f"{kernels}, {processor_kernels()}",
        "checked": "alignment",  # entries made before this check are not used
    }


def _key(record: Record) -> str:
    import hashlib  # late: it loads OpenSSL, which running a bundle does not need

    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:KEY_DIGITS]


def _is_sound(entry: Path, wanted: Record, *, verify: bool) -> bool:
    try:
        found = _read_record(entry / RECORD_NAME)
        if found["for"] != wanted:
            return False
        for name in (GRAPH_NAME, WEIGHTS_FILE_NAME):
            size_bytes, sha256 = found["files"][name]
            path = entry / name
            if not path.is_file() or path.stat().st_size != size_bytes:
                return False
            hashed = verify or name == GRAPH_NAME  # a small file, which native code reads
            if hashed and file_entry(path).sha256 != sha256:
                return False
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # missing, cut off or damaged
    return True


def _read_record(path: Path) -> Any:
    """Return an entry's record; ``OSError`` for what is no file, such as a pipe."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return json.loads(path.read_bytes())


def _make(
    entry: Path, wanted: Record, graph: Path, shared: MappedWeights, kernels: Kernels
) -> None:
    """Write the entry to a folder beside ``entry``, then move that folder to ``entry``.

    The caller holds the lock, so all that is hidden there was left by a process that was killed.
    """
    for left in entry.parent.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    part = entry.with_name(PART_NAME)
    part.mkdir()
    try:
        save_prepacked(graph, part / GRAPH_NAME, shared, kernels)
        _check_alignment(part / GRAPH_NAME)
        files = {path.name: file_entry(path) for path in part.iterdir()}
        sizes = {name: (found.size_bytes, found.sha256) for name, found in files.items()}
        (part / RECORD_NAME).write_text(json.dumps({"for": wanted, "files": sizes}))
        _remove_others(entry, wanted)
        part.replace(entry)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_alignment(graph: Path) -> None:
    """Raise ``BundleError`` if kernels would misread the packed weights.

    ONNX Runtime (1.32) appends packed weights to the other weights without aligning them.
    ``MatMulNBits`` then computes with wrong weights.
    """
    places = [int(place) for place in PACKED_AT.findall(graph.read_bytes())]
    if any(place % ALIGNMENT for place in places):
        raise BundleError(
            "ONNX Runtime writes the packed weights of this bundle without the alignment that its "
            "kernels rely on: load the bundle without prepack."
        )


def _remove_others(entry: Path, wanted: Record) -> None:
    """Remove the entries that ``entry`` replaces: a damaged one, and outdated ones."""
    for path in entry.parent.iterdir():
        written = not path.name.startswith(".")  # else it is still being made
        if path == entry or (written and _is_for_the_same_files(path / RECORD_NAME, wanted)):
            shutil.rmtree(path)


def _is_for_the_same_files(record: Path, wanted: Record) -> bool:
    try:
        found = _read_record(record)["for"]
        return bool(all(found[name] == wanted[name] for name in ("graph", "weights")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # not an entry, or one that is being written


def cache_folder() -> Path:
    """Return edgeseq's folder in the user's cache folder, as Linux, macOS or Windows define it."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        folder = (Path(local) if local else Path.home() / "AppData/Local") / "edgeseq" / "Cache"
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches" / "edgeseq"
    else:
        # Relative paths are to be ignored (XDG Base Directory Specification).
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (given if given.is_absolute() else Path.home() / ".cache") / "edgeseq"
    return folder
