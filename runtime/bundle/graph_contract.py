"""Names and shapes of the graphs' inputs and outputs: ``docs/how-it-works/graph.md`` as code.

Export builds graphs with these names and shapes, and loading checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BundleError
from .manifest import MANIFEST_NAME, Dimensions, Manifest, shown

PARTS = ("key", "value")  # parts of a layer's KV cache and cross-attention
Shape = tuple[str | int, ...]  # the size of each dimension, or its name if it is dynamic
Shapes = Mapping[str, Shape]
CACHE_TYPES = {"float32": "tensor(float)", "int8": "tensor(int8)", "float16": "tensor(float16)"}


def layer_names(sizes: Dimensions) -> list[str]:
    """Return ``0.key``, ``0.value``, ``1.key`` and so on: the order of all lists of KV tensors."""
    return [f"{layer}.{part}" for layer in range(sizes.layers) for part in PARTS]


def decoder_inputs(sizes: Dimensions, *, after_encoder: bool) -> Shapes:
    """Return the names and shapes of the decoder's inputs.

    ``after_encoder``: include the source lengths and the cross-attention keys and values.
    """
    cross: Shapes = {"source_lengths": ("batch",), **encoder_outputs(sizes)}
    return {
        "input_ids": ("rows", "n"),
        "position_ids": ("rows", "n"),
        "seqlens_k": ("rows",),
        "total_sequence_length": (),
        "logits_at": ("m",),
        **(cross if after_encoder else {}),
        **{f"past_key_values.{name}": _cache(sizes) for name in layer_names(sizes)},
    }


def decoder_outputs(sizes: Dimensions) -> Shapes:
    """Return the names and shapes of the decoder's outputs."""
    return {
        "logits": ("m", sizes.vocabulary),
        **{f"present.{name}": _cache(sizes) for name in layer_names(sizes)},
    }


def encoder_inputs() -> Shapes:
    """Return the names and shapes of the encoder's inputs."""
    return {"input_ids": ("batch", "source"), "source_lengths": ("batch",)}


def encoder_outputs(sizes: Dimensions) -> Shapes:
    """Return the names and shapes of the encoder's outputs, which are inputs of the decoder."""
    shape = ("batch", sizes.heads, "source", sizes.head_size)
    return {f"cross.{name}": shape for name in layer_names(sizes)}


def check_graph(session: Any, role: str, manifest: Manifest) -> None:
    """Raise ``BundleError`` if a session's graph is not the one that the manifest describes."""
    sizes = manifest.dimensions
    try:
        values = (*session.get_inputs(), *session.get_outputs())
        found = {value.name: tuple(value.shape) for value in values}
    except UnicodeDecodeError as error:
        raise BundleError(f"The {role} graph is damaged: export the bundle again.") from error
    if not 0 < sizes.layers <= len(found):  # before the names of all layers are made
        raise BundleError(
            f"The {role} graph does not match {MANIFEST_NAME}: it does not have "
            f"{shown(sizes.layers)} layers; export the bundle again."
        )
    if role == "encoder":
        expected = {**encoder_inputs(), **encoder_outputs(sizes)}
    else:
        expected = {
            **decoder_inputs(sizes, after_encoder=manifest.has_encoder),
            **decoder_outputs(sizes),
        }
    if role == "decoder":
        _check_cache_dtype(session, manifest)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise BundleError(
                f"The {role} graph does not match {MANIFEST_NAME}: "
                f"{_mismatch(name, found.get(name), expected.get(name))}; export the bundle again."
            )


def _check_cache_dtype(session: Any, manifest: Manifest) -> None:
    dtype = CACHE_TYPES[manifest.kv_cache.dtype]
    for value in (*session.get_inputs(), *session.get_outputs()):
        if value.name.startswith(("past_key_values.", "present.")) and value.type != dtype:
            raise BundleError(
                f"The decoder graph does not match {MANIFEST_NAME}: {value.name} has the type "
                f"{value.type}, expected {dtype}; export the bundle again."
            )


def _cache(sizes: Dimensions) -> Shape:
    return ("rows", sizes.heads, "capacity", sizes.stored_head_size)


def _mismatch(name: str, found: Shape | None, expected: Shape | None) -> str:
    if found is None:
        return f"{name} is missing"
    if expected is None:
        return f"{name} is unexpected"
    return f"{name} has the shape {list(found)}, expected {list(expected)}"
