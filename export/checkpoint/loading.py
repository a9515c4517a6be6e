"""Load a checkpoint's model as one of the families."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from ...runtime.errors import CheckpointError, reason
from ..families.family import Family
from .adapters import check_adapter, merge_adapter, without_adapter
from .reading import ReportProgress, load_config, quiet_transformers
from .weight_files import stored_weights, weight_files, wrapper_prefix

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
    ``scale_attn_by_inverse_layer_idx``. A prefix that a wrapper has put in front of all names of
    weights is removed. Raises ``CheckpointError`` if the model cannot be loaded, or if a weight is
    missing or has the wrong shape.
    """
    check_adapter(folder)
    _check_formats(folder)
    prefix = ""
    try:
        with quiet_transformers(), without_adapter(folder) as base:
            config = load_config(folder)
            family.check(config)
            weight_files(base)  # refuses those outside the folder
            model, report = _from_pretrained(family, base, config)
            if missing := sorted(report["missing_keys"]):
                names = list(stored_weights(base, "meta"))
                prefix = wrapper_prefix(names, missing, model.base_model_prefix)
            if prefix:
                progress(f"removing {prefix!r} of a wrapper from the names of the weights")
                weights = stored_weights(base, "cpu", prefix)
                model, report = _from_pretrained(family, None, config, state_dict=weights)
                with suppress(OSError):  # Transformers reads it only with the files of weights
                    model.generation_config = GenerationConfig.from_pretrained(base)
    except LOAD_ERRORS as error:
        raise CheckpointError(
            f"Transformers cannot load {folder} ({reason(error)}): download or save the checkpoint "
            "again."
        ) from error
    if mismatched := sorted(map(str, report["mismatched_keys"])):
        name = mismatched[0]
        found, expected = _stored_shape(folder, name, prefix), model.state_dict()[name].shape
        raise CheckpointError(
            f"The weight {name} in {folder} has the shape {found}, but config.json requires "
            f"{tuple(expected)}: save the checkpoint again, with its own config.json."
        )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"The checkpoint in {folder} lacks the weight {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ": download or save it again."
        )
    if unused := sorted(report["unexpected_keys"]):
        progress(f"ignoring weights that the configuration does not use: {', '.join(unused)}")
    _report_tied_head(folder, model, prefix, progress)
    merged: PreTrainedModel = merge_adapter(model, folder).eval()
    return merged


def _from_pretrained(
    family: Family, folder: Path | None, config: Any, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Return the model, and what Transformers reports of its weights."""
    loaded: tuple[Any, dict[str, Any]] = family.MODEL_CLASSES[config.model_type].from_pretrained(
        folder,
        config=config,
        attn_implementation="eager",
        dtype=torch.float32,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are reported, and refused by `load_model`
        **options,
    )
    return loaded


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


def _stored_shape(folder: Path, name: str, prefix: str) -> tuple[int, ...] | str:
    """Return the stored shape of a weight, whose name may lack the model's own prefix."""
    stored = stored_weights(folder, "meta", prefix)
    for known in (name, name.partition(".")[2]):
        if known in stored:
            return tuple(stored[known].shape)
    return "of another model"


def _report_tied_head(
    folder: Path, model: PreTrainedModel, prefix: str, progress: ReportProgress
) -> None:
    """Report a stored lm_head that the configuration replaces by the embedding."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    if head is None or head.weight.data_ptr() != embedding.weight.data_ptr():
        return
    stored = stored_weights(folder, "cpu", prefix).get("lm_head.weight")
    if stored is not None and not torch.equal(stored.float(), embedding.weight):
        progress(
            "ignoring the stored lm_head.weight as Transformers does, because the configuration "
            "ties the lm_head to the embedding (tie_word_embeddings)"
        )
