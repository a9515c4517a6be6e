"""Weights in the layout of this machine's processor, kept in the user's cache folder.

When ONNX Runtime opens a graph it copies the weights into a layout of its kernels.
``prepacked_graph`` keeps the result: a graph that names them, and a file that is mapped instead of
memory that is filled. The layout belongs to one processor and one version of ONNX
Runtime, so an entry's name is made of these and of the hashes of the bundle's files, and an entry
counts only if its record says the same and its files have their sizes. ONNX Runtime packs each
weight once more when it opens an entry, and uses what is kept only where that is what it gets.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..bundle.manifest import Manifest
from ..bundle.reading import file_entry
from ..bundle.weights_file import WEIGHTS_FILE_NAME
from ..errors import BundleError, reason
from .cpu import instructions, processor
from .graph_session import SharedWeights, runtime_version, save_prepacked

GRAPH_NAME = "graph.onnx"
RECORD_NAME = "prepacked.json"
KEY_DIGITS = 32
ALIGNMENT = 64  # what kernels take for granted of packed weights
PACKED_AT = re.compile(rb"\|(\d+);\d+;0")  # how a graph names the place of packed weights
Record = Mapping[str, str]


def prepacked_graph(
    folder: Path, manifest: Manifest, role: str, shared: SharedWeights, *, verify: bool = False
) -> Path:
    """The graph ``role`` of the bundle in ``folder``, prepacked; made if it is not there.

    Entries of the same files for other processors or versions are removed when one is made. With
    ``verify`` the hashes of an entry's files are checked, and it is made anew if they are wrong.
    Raises ``BundleError`` where it cannot be written.
    """
    wanted = _record(manifest, role)
    entries = cache_folder() / "prepacked"
    entry = entries / _key(wanted)
    if not _is_sound(entry, wanted, verify=verify):
        try:
            _make(entry, wanted, folder / manifest.graphs[role], shared)
        except OSError as error:
            raise BundleError(
                f"Prepacked weights cannot be written to {entries}: {reason(error)}. Make room "
                "there, or load the bundle without them."
            ) from error
    return entry / GRAPH_NAME


def _record(manifest: Manifest, role: str) -> Record:
    """What an entry is for."""
    graph = manifest.graphs[role]
    return {
        "graph": manifest.files[graph].sha256,
        "weights": manifest.files[WEIGHTS_FILE_NAME].sha256,
        "onnxruntime": runtime_version(),
        "processor": processor(),
        "instructions": instructions(),
        "checked": "alignment",  # entries of before are not used
    }


def _key(record: Record) -> str:
    import hashlib  # late: it loads OpenSSL, which running a bundle does not need

    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:KEY_DIGITS]


def _is_sound(entry: Path, wanted: Record, *, verify: bool) -> bool:
    try:
        found = json.loads((entry / RECORD_NAME).read_bytes())
        if found["for"] != wanted:
            return False
        for name, [size_bytes, sha256] in found["files"].items():
            path = entry / name
            if path.stat().st_size != size_bytes:
                return False
            if verify and file_entry(path).sha256 != sha256:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no entry, or one that was cut off or damaged: it is made anew
    return {GRAPH_NAME, WEIGHTS_FILE_NAME} <= set(found["files"])


def _make(entry: Path, wanted: Record, graph: Path, shared: SharedWeights) -> None:
    """Fill a folder beside ``entry`` and move it there."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    part = entry.with_name(f".{entry.name}-{secrets.token_hex(4)}")
    part.mkdir()
    try:
        save_prepacked(graph, part / GRAPH_NAME, shared)
        _check_alignment(part / GRAPH_NAME)
        files = {path.name: file_entry(path) for path in part.iterdir()}
        sizes = {name: (found.size_bytes, found.sha256) for name, found in files.items()}
        (part / RECORD_NAME).write_text(json.dumps({"for": wanted, "files": sizes}))
        _remove_others(entry, wanted)
        part.replace(entry)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_alignment(graph: Path) -> None:
    """Refuse packed weights that kernels would misread.

    ONNX Runtime (1.32) writes them behind the other weights without regard to their addresses, and
    ``MatMulNBits`` computes with others then.
    """
    places = [int(place) for place in PACKED_AT.findall(graph.read_bytes())]
    if any(place % ALIGNMENT for place in places):
        raise BundleError(
            "ONNX Runtime cannot keep the packed weights of this bundle correctly (it writes them "
            "where its kernels misread them): load it without prepack."
        )


def _remove_others(entry: Path, wanted: Record) -> None:
    """Remove what ``entry`` replaces: a damaged one, and those that no longer match."""
    for path in entry.parent.iterdir():
        written = not path.name.startswith(".")  # not still being made
        if path == entry or (written and _is_for_the_same_files(path / RECORD_NAME, wanted)):
            shutil.rmtree(path)


def _is_for_the_same_files(record: Path, wanted: Record) -> bool:
    try:
        found = json.loads(record.read_bytes())["for"]
        return bool(all(found[name] == wanted[name] for name in ("graph", "weights")))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # another program's, or one that is being written


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
