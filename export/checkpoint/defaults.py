"""A checkpoint's generation defaults, in the form that the runtime can use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from ...runtime.errors import CheckpointError
from ...runtime.request.options import OPTION_TRAITS
from .reading import ReportProgress

SPECIAL_TOKENS = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
OPTIONS_OF_IDS = {name for name, traits in OPTION_TRAITS.items() if traits.ids} | {"bos_token_id"}


def generation_defaults(model: PreTrainedModel, progress: ReportProgress) -> dict[str, Any]:
    """Return the checkpoint's generation settings that differ from Transformers' defaults."""
    assert model.generation_config is not None
    defaults: dict[str, Any] = model.generation_config.to_diff_dict()
    if model.generation_config.top_k is None:
        defaults["top_k"] = 0  # None and 0 both mean: sample from all tokens
    kept = {
        name: value
        for name, value in defaults.items()
        if not name.startswith("_") and name != "transformers_version" and value is not None
    }
    return usable(kept, model.config.vocab_size, progress)


def usable(
    defaults: Mapping[str, Any], vocabulary: int, progress: ReportProgress
) -> dict[str, Any]:
    """Return ``defaults`` without settings that mean nothing, and without ids that do not exist.

    As in Transformers, a negative special token and an empty list mean None, and the first of
    several ``decoder_start_token_id`` counts. Ids that ``vocabulary`` does not have are reported.
    """
    kept: dict[str, Any] = {}
    unused: dict[str, Any] = {}
    for name, given in defaults.items():
        value = _meant(name, given)
        left = _existing(name, value, vocabulary)
        if left != value:
            unused[name] = given
        if left is not None:
            kept[name] = left
    if unused:
        settings = ", ".join(f"{name} {value!r:.60}" for name, value in unused.items())
        progress(
            f"ignoring token ids of generation settings that are not below {vocabulary}, the size "
            f"of the vocabulary: {settings}"
        )
    return kept


def _meant(name: str, value: Any) -> Any:
    """Return the value that Transformers uses; None for none."""
    if name == "decoder_start_token_id" and isinstance(value, list):
        return _meant(name, value[0]) if value else None
    if name in SPECIAL_TOKENS and isinstance(value, list):
        return [token for token in value if not _is_below(token, 0)] or None
    if name in SPECIAL_TOKENS and _is_below(value, 0):
        return None
    return None if name in OPTION_TRAITS and value in ([], {}) else value


def _is_below(token: Any, limit: int) -> bool:
    return type(token) is int and token < limit


def _existing(name: str, value: Any, vocabulary: int) -> Any:
    """Return the part of an option whose token ids are below ``vocabulary``; None for nothing."""

    def exists(token: Any) -> bool:
        return type(token) is not int or token < vocabulary

    if name not in OPTIONS_OF_IDS or value is None:
        return value
    if not isinstance(value, list | dict):
        return value if exists(value) else None
    if isinstance(value, dict):  # `sequence_bias`
        return {ids: bias for ids, bias in value.items() if all(map(exists, ids))} or None
    if name == "bad_words_ids":
        return [ids for ids in value if not isinstance(ids, list) or all(map(exists, ids))] or None
    if name == "sequence_bias":
        return [pair for pair in value if all(map(exists, pair[0]))] or None
    return [token for token in value if exists(token)] or None


def task_specific_params(
    config: PretrainedConfig, progress: ReportProgress
) -> dict[str, dict[str, Any]]:
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
    return {
        str(task): usable(params, config.vocab_size, progress) for task, params in found.items()
    }
