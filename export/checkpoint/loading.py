"""Load a checkpoint's model as one of the families, and its generation defaults."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ...runtime.errors import CheckpointError, reason
from ..families.family import Family
from .reading import ReportProgress, quiet_transformers

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
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            family.check(config)
            model, report = family.MODEL_CLASSES[config.model_type].from_pretrained(
                folder,
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
        raise CheckpointError(
            f"The weight {mismatched[0]} in {folder} does not have the shape that config.json "
            "requires: save the checkpoint again, with its own config.json."
        )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"The checkpoint in {folder} lacks the weight {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ": download or save it again."
        )
    if unused := sorted(report["unexpected_keys"]):
        progress(f"ignoring weights that the configuration does not use: {', '.join(unused)}")
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def generation_defaults(model: PreTrainedModel) -> dict[str, Any]:
    """Return the checkpoint's generation settings that differ from Transformers' defaults."""
    assert model.generation_config is not None
    defaults: dict[str, Any] = model.generation_config.to_diff_dict()
    if model.generation_config.top_k is None:
        defaults["top_k"] = 0  # None and 0 both mean: sample from all tokens
    return {
        name: value
        for name, value in defaults.items()
        if not name.startswith("_") and name != "transformers_version" and value is not None
    }


def task_specific_params(config: PretrainedConfig) -> dict[str, dict[str, Any]]:
    """Return the checkpoint's settings for pipelines by task: a prefix, generation defaults.

    Raises ``CheckpointError`` if they are not an object of objects.
    """
    found: Any = config.task_specific_params or {}
    sound = isinstance(found, dict) and all(isinstance(value, dict) for value in found.values())
    if not sound:
        raise CheckpointError(
            f"The configuration's task_specific_params is {found!r:.60}; it must map each task to "
            "an object."
        )
    return {str(task): dict(params) for task, params in found.items()}
