"""LoRA adapters beside a checkpoint: they are merged into the weights with peft."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...runtime.concurrency.temporary import temporary_folder
from ...runtime.errors import CheckpointError, reason
from .reading import read_json

ADAPTER_FILE = "adapter_config.json"


def check_adapter(folder: Path) -> None:
    """Raise ``CheckpointError`` for an adapter that cannot be merged into a model here."""
    if not (folder / ADAPTER_FILE).is_file():
        return
    merge = "merge it into its model with peft's merge_and_unload, save the result with its "
    merge += "tokenizer, and export that"
    if not (folder / "config.json").is_file():
        base = read_json(folder / ADAPTER_FILE).get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder} is an adapter (such as LoRA) of the model {base!r:.100}, without the model: "
            f"{merge}."
        )
    if find_spec("peft") is None:
        raise CheckpointError(
            f"{folder} has an adapter (such as LoRA) beside the model, and peft, which would merge "
            f"it, is not installed: install peft, or {merge}."
        )


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """Yield a folder with the same files except the adapter's, which Transformers would load."""
    if not (folder / ADAPTER_FILE).is_file():
        yield folder
        return
    with temporary_folder() as links:
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("adapter_"):
                link = links / path.name
                try:
                    link.symlink_to(path.resolve())
                except OSError:  # not allowed on every Windows
                    shutil.copyfile(path, link)
        yield links


def merge_adapter(model: Any, folder: Path) -> Any:
    """Return ``model`` with the adapter in ``folder`` merged; without an adapter, ``model``."""
    if not (folder / ADAPTER_FILE).is_file():
        return model
    peft: Any = import_module("peft")  # late: an optional package
    try:
        return peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:  # peft raises many types
        raise CheckpointError(
            f"peft cannot merge the adapter in {folder} ({reason(error)}): save the adapter again, "
            "or merge it where it was trained."
        ) from error
