"""Read parts of a checkpoint: JSON files, and files that Transformers reads without warnings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.utils import logging

from ...runtime.errors import CheckpointError, reason

CONFIG_FILE = "config.json"
ReportProgress = Callable[[str], None]  # function that receives one line per step


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; ``CheckpointError`` if it is invalid or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}): download or save the checkpoint again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} does not contain a JSON object: download or save the checkpoint again."
        )
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of config.json; a missing ``model_type`` follows from the architecture.

    Raises ``CheckpointError`` for a file that is missing, invalid or not an object, or that asks
    for code of the Hub.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}, so it is not a checkpoint: pass a folder that "
            "`save_pretrained` wrote."
        )
    config = read_json(path)
    _check_attention(path, config)
    if config.get("model_type") is None:
        named = config.get("architectures")
        for architecture in named if isinstance(named, list) else [named]:
            if found := _model_type(architecture):
                config["model_type"] = found
    return config


def _check_attention(path: Path, content: Any) -> None:
    """Raise ``CheckpointError`` for a key that names an attention's code on the Hub.

    Transformers before 5.3 may download and run it (CVE-2026-4372).
    """
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        names = value.values() if isinstance(value, dict) else [value]
        if "_implementation" in str(key) and any("/" in str(name) for name in names):
            raise CheckpointError(
                f"{path} names code on the Hugging Face Hub ({key}: {value!r:.100}), and edgeseq "
                "runs no code of a checkpoint: remove this key, or use another checkpoint."
            )
        if isinstance(value, dict | list):
            _check_attention(path, value)


def _model_type(architecture: Any) -> str | None:
    """Return the model type of a class of Transformers."""
    for names in (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    ):
        for model_type, name in names.items():
            if name == architecture:
                return str(CONFIG_MAPPING[model_type].model_type)
    return None


def load_config(folder: Path) -> Any:
    """Return the configuration of a checkpoint as Transformers' object.

    Raises ``CheckpointError`` for a file that Transformers cannot read.
    """
    model_type = read_config(folder).get("model_type")
    try:
        made: Any = CONFIG_MAPPING[str(model_type)] if model_type is not None else AutoConfig
        return made.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except CheckpointError:
        raise
    except Exception as error:  # Transformers raises many types
        raise CheckpointError(
            f"Transformers cannot read {folder / CONFIG_FILE} ({reason(error)}): download or save "
            "the checkpoint again."
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let Transformers log only errors and show no progress bars inside the block."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
