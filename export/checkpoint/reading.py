"""Reading parts of a checkpoint: its JSON files, and Transformers without its own messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...runtime.errors import CheckpointError

Progress = Callable[[str], None]  # is told each step in a line


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; ``CheckpointError`` where it is damaged or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object.")
    return content


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Errors alone are logged inside; the caller's verbosity is back afterwards."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
