"""Load a checkpoint's model as one of the families."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ...runtime.errors import CheckpointError, reason
from ..families.family import Family
from .adapters import check_adapter, merge_adapter, without_adapter
from .reading import ReportProgress, load_config, quiet_transformers, read_json

OTHER_WEIGHTS = {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax"}
LOAD_ERRORS = (  # Transformers raises them for damaged or unusual files
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    UnpicklingError,
)


def load_model(family: Family, folder: Path, progress: ReportProgress) -> PreTrainedModel:
    """Return the checkpoint's model in float32, with eager attention and every weight loaded.

    Attention is eager because Transformers' SDPA path ignores ``scale_attn_weights`` and
    ``scale_attn_by_inverse_layer_idx``. Raises ``CheckpointError`` if the model cannot be loaded,
    or if a weight is missing or has the wrong shape.
    """
    check_adapter(folder)
    _check_formats(folder)
    try:
        with quiet_transformers(), without_adapter(folder) as base:
            config = load_config(folder)
            family.check(config)
            model, report = family.MODEL_CLASSES[config.model_type].from_pretrained(
                base,
                attn_implementation="eager",
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported, and refused below
            )
    except LOAD_ERRORS as error:
        raise CheckpointError(
            f"Transformers cannot load {folder} ({reason(error)}): download or save the checkpoint "
            "again."
        ) from error
    if mismatched := sorted(map(str, report["mismatched_keys"])):
        name = mismatched[0]
        found, expected = _stored_shape(folder, name), tuple(model.state_dict()[name].shape)
        raise CheckpointError(
            f"The weight {name} in {folder} has the shape {found}, but config.json requires "
            f"{expected}: save the checkpoint again, with its own config.json."
        )
    if missing := sorted(report["missing_keys"]):
        _check_prefix(folder, missing, report["unexpected_keys"])
        raise CheckpointError(
            f"The checkpoint in {folder} lacks the weight {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ": download or save it again."
        )
    if unused := sorted(report["unexpected_keys"]):
        progress(f"ignoring weights that the configuration does not use: {', '.join(unused)}")
    _report_tied_head(folder, model, progress)
    merged: PreTrainedModel = merge_adapter(model, folder).eval()
    return merged


def _check_formats(folder: Path) -> None:
    """Raise ``CheckpointError`` if the only weights are those of another framework."""
    if any(list(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        return
    for name, framework in OTHER_WEIGHTS.items():
        if (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has its weights only as {name} of {framework}: save them for PyTorch, "
                "as model.safetensors, with a Transformers that has both frameworks."
            )


def _check_prefix(folder: Path, missing: list[str], unexpected: list[str]) -> None:
    """Raise ``CheckpointError`` if the missing weights are there with a prefix in their names."""
    for name in missing:
        for key in sorted(unexpected):
            if key.endswith(f".{name}"):
                prefix = key.removesuffix(name)
                raise CheckpointError(
                    f"The names of the weights in {folder} begin with {prefix!r}, as in {key}, "
                    "which comes from a wrapper around the model: save the inner model (often "
                    "model.module) again."
                )


def _weight_files(folder: Path, name: str) -> list[Path]:
    """Return the safetensors files that may have the weight ``name``."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shard = read_json(index).get("weight_map", {}).get(name)
        return [folder / shard] if isinstance(shard, str) else []
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def _stored(folder: Path, name: str) -> torch.Tensor | None:
    """Return a weight as it is stored in safetensors; None if it is not there."""
    for path in _weight_files(folder, name):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118  # it is not a dictionary
                stored: torch.Tensor = file.get_tensor(name)
                return stored
    if (folder / "pytorch_model.bin").is_file() and not _weight_files(folder, name):
        weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        return weights.get(name) if isinstance(weights, dict) else None
    return None


def _stored_shape(folder: Path, name: str) -> tuple[int, ...] | str:
    """Return the stored shape of a weight, whose name may lack the model's prefix."""
    for stored in (_stored(folder, name), _stored(folder, name.partition(".")[2])):
        if stored is not None:
            return tuple(stored.shape)
    return "of another model"


def _report_tied_head(folder: Path, model: PreTrainedModel, progress: ReportProgress) -> None:
    """Report a stored lm_head that the configuration replaces by the embedding."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    if head is None or head.weight.data_ptr() != embedding.weight.data_ptr():
        return
    stored = _stored(folder, "lm_head.weight")
    if stored is not None and not torch.equal(stored.float(), embedding.weight):
        progress(
            "ignoring the stored lm_head.weight as Transformers does, because the configuration "
            "ties the lm_head to the embedding (tie_word_embeddings)"
        )
