"""Read parts of a checkpoint: JSON files, and files that Transformers reads without warnings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...runtime.errors import CheckpointError

ReportProgress = Callable[[str], None]  # function that receives one line per step


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; ``CheckpointError`` if it is invalid or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}): download or save the checkpoint again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} does not contain a JSON object: download or save the checkpoint again."
        )
    return content


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let Transformers log only errors inside the block; then restore the caller's verbosity."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
