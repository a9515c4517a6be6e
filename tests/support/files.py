"""Files and folders that a test changes or looks at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeseq.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edgeseq.runtime.bundle.reading import file_entry


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each file of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_nothing_written(out: Path) -> None:
    """Check that there is neither ``out`` nor a partial folder beside it."""
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON object; None takes a key out."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content), encoding="utf-8")


def forge(folder: Path) -> None:
    """Make a manifest's sizes, hashes and seal those of the files that are there."""
    path = folder / MANIFEST_NAME
    manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
    files = {name: file_entry(folder / name) for name in manifest.files}
    text = replace(manifest, files=files).sealed().to_json()
    path.write_text(text, encoding="utf-8", newline="\n")
