"""The model families that can be exported, and loading a checkpoint as one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from edgeseq.export import gpt2, t5
from edgeseq.export.graph import Graph
from edgeseq.export.json_file import read_json
from edgeseq.export.quiet import quiet_transformers
from edgeseq.runtime.errors import CheckpointError, reason
from edgeseq.runtime.manifest import Dimensions, Kind


class Family(Protocol):
    """What a family's module offers."""

    @property
    def KIND(self) -> Kind: ...  # noqa: N802
    @property
    def MODEL_CLASSES(self) -> dict[str, Any]: ...  # noqa: N802  # by `model_type`
    @property
    def ARCHITECTURES(self) -> frozenset[str]: ...  # noqa: N802
    @property
    def SLOW_TOKENIZER_FILES(self) -> tuple[str, ...]: ...  # noqa: N802

    def check(self, config: Any) -> None:
        """Raise ``CheckpointError`` for a configuration that cannot be exported."""

    def dimensions(self, config: Any) -> Dimensions:
        """The sizes that the runtime allocates by."""

    def graphs(self, model: Any) -> list[Graph]:
        """The graphs of ``model``, with their weights."""


Progress = Callable[[str], None]  # is told each step in a line
LOAD_ERRORS = (  # what damaged or odd files make Transformers raise
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    UnpicklingError,
)
FAMILIES: tuple[Family, ...] = (gpt2, t5)


def find_family(folder: Path) -> Family:
    """The family of the checkpoint in ``folder``; ``CheckpointError`` names what is supported."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no config.json: it is not a checkpoint.")
    config = read_json(path)
    model_type = config.get("model_type")
    for family in FAMILIES:
        if str(model_type) in family.MODEL_CLASSES:
            if "quantization_config" in config:
                raise CheckpointError(
                    "The checkpoint is quantized (quantization_config): export the original "
                    "checkpoint instead."
                )
            _check_architectures(family, config)
            return family
    supported = ", ".join(name for family in FAMILIES for name in family.MODEL_CLASSES)
    raise CheckpointError(
        f"The model type {model_type!r} is not supported; supported: {supported}."
    )


def _check_architectures(family: Family, config: dict[str, Any]) -> None:
    architectures = config.get("architectures")
    names = [architectures] if isinstance(architectures, str) else architectures
    for architecture in names or ():
        if architecture not in family.ARCHITECTURES:
            raise CheckpointError(
                f"The architecture {architecture!r} does not generate text; supported for "
                f"{config['model_type']}: {', '.join(sorted(family.ARCHITECTURES))}."
            )


def load_model(family: Family, folder: Path, progress: Progress) -> PreTrainedModel:
    """The checkpoint's model in float32, with eager attention and every weight loaded.

    Eager, because Transformers' SDPA path leaves out ``scale_attn_weights`` and
    ``scale_attn_by_inverse_layer_idx``.
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
                ignore_mismatched_sizes=True,  # reported, and refused below by name
            )
    except LOAD_ERRORS as error:
        raise CheckpointError(f"Transformers cannot load {folder}: {reason(error)}.") from error
    if mismatched := sorted(map(str, report["mismatched_keys"])):
        raise CheckpointError(
            f"The weight {mismatched[0]} in {folder} does not have the shape that config.json "
            "asks for."
        )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"The checkpoint in {folder} lacks weights: {missing[0]}"
            + (f" and {len(missing) - 1} more." if len(missing) > 1 else ".")
        )
    if unused := sorted(report["unexpected_keys"]):
        progress(f"leaving out weights that the configuration does not use: {', '.join(unused)}")
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def generation_defaults(model: PreTrainedModel) -> dict[str, Any]:
    """What the checkpoint's generation configuration says beyond Transformers' own defaults."""
    assert model.generation_config is not None
    defaults: dict[str, Any] = model.generation_config.to_diff_dict()
    if model.generation_config.top_k is None:
        defaults["top_k"] = 0  # both say: draw from all tokens
    return {
        name: value
        for name, value in defaults.items()
        if not name.startswith("_") and name != "transformers_version" and value is not None
    }


def task_specific_params(config: PretrainedConfig) -> dict[str, dict[str, Any]]:
    """By task, what the checkpoint wants pipelines to do: a prefix, and generation defaults."""
    found: Any = config.task_specific_params or {}
    sound = isinstance(found, dict) and all(isinstance(value, dict) for value in found.values())
    if not sound:
        raise CheckpointError(
            f"The configuration's task_specific_params is {found!r:.60}; it must be an object of "
            "objects."
        )
    return {str(task): dict(params) for task, params in found.items()}
