"""The arguments of pipelines besides the options of ``generate``, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..errors import OptionError

ReturnType = Literal["full_text", "new_text", "text", "tensors"]
BATCH_SIZE = 8
COMMON = frozenset(
    {
        "batch_size",
        "clean_up_tokenization_spaces",
        "prefix",
        "return_tensors",
        "return_text",
        "stop_sequence",
        "truncation",
    }
)
RETURNS = {"return_full_text", "return_tensors", "return_text"}
FLAGS = (
    "clean_up_tokenization_spaces",
    "return_full_text",
    "return_tensors",
    "return_text",
    "truncation",
)


@dataclass(frozen=True, kw_only=True)
class PipelineArguments:
    """The arguments of a pipeline, as checked by ``read_arguments``."""

    return_type: ReturnType
    batch_size: int = BATCH_SIZE  # texts per batch
    clean_up_tokenization_spaces: bool | None = None  # None: the pipeline's ``cleans_up``
    prefix: str | None = None  # None: the checkpoint's prefix
    truncation: bool = False
    handle_long_generation: str | None = None
    stop_sequence: str | None = None
    task: str | None = None  # None: the pipeline's task


def read_arguments(
    options: Mapping[str, Any], names: frozenset[str], default_return: ReturnType
) -> tuple[PipelineArguments, dict[str, Any]]:
    """Split ``options`` into a pipeline's arguments and options of ``generate``.

    ``names``: the names of the pipeline's arguments. An argument that is None counts as not passed.
    Raises ``OptionError`` for a bad argument.
    """
    given = {name: options[name] for name in sorted(names) if options.get(name) is not None}
    rest = {name: value for name, value in options.items() if name not in names}
    if isinstance(given.get("truncation"), str):  # an option of ``generate``; True is not
        rest["truncation"] = given.pop("truncation")
    for name in FLAGS:
        if not isinstance(given.get(name, False), bool):
            raise OptionError(f"{name} is {given[name]!r:.60}; it must be True or False.")
    size = given.get("batch_size", BATCH_SIZE)
    if type(size) is not int or size < 1:
        raise OptionError(f"batch_size is {size!r:.60}; it must be an integer of at least 1.")
    for name in ("prefix", "stop_sequence"):
        if not isinstance(given.get(name, ""), str):
            raise OptionError(f"{name} is {given[name]!r:.60}; it must be a string.")
    if given.get("stop_sequence") == "":
        raise OptionError("stop_sequence is empty: pass a text to stop at, or leave it out.")
    if given.get("handle_long_generation", "hole") != "hole":
        raise OptionError(
            f"handle_long_generation is {given['handle_long_generation']!r:.60}; it must be 'hole'."
        )
    own = {item.name for item in fields(PipelineArguments)} - {"return_type", "batch_size", "task"}
    arguments = PipelineArguments(
        return_type=_return_type(given, default_return),
        batch_size=size,
        task=_pair(given),
        **{name: value for name, value in given.items() if name in own},
    )
    return arguments, rest


def _return_type(given: Mapping[str, Any], default: ReturnType) -> ReturnType:
    if "return_full_text" in given:
        for other in ("return_text", "return_tensors"):
            if other in given:
                raise OptionError(f"{other} has no effect with return_full_text: pass one of them.")
        return "full_text" if given["return_full_text"] else "new_text"
    if given.get("return_tensors"):
        if given.get("return_text"):
            raise OptionError("return_text has no effect with return_tensors: pass one of them.")
        return "tensors"
    if given.get("return_text") is False:
        raise OptionError("return_text is False: for token ids, pass return_tensors=True instead.")
    return default


def _pair(given: Mapping[str, Any]) -> str | None:
    """Return the task that ``src_lang`` and ``tgt_lang`` name, or None if both are missing."""
    source, target = given.get("src_lang"), given.get("tgt_lang")
    if source is None and target is None:
        return None
    if not isinstance(source, str) or not isinstance(target, str):
        raise OptionError(
            f"src_lang is {source!r:.60} and tgt_lang is {target!r:.60}; pass both as strings, "
            "such as 'en' and 'fr'."
        )
    return f"translation_{source}_to_{target}"
