"""The weights of a checkpoint as they are stored: in safetensors or torch files, or in shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from transformers.modeling_utils import load_state_dict

from ...runtime.errors import CheckpointError
from .reading import read_json

FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which Transformers looks


def stored_weights(folder: Path, device: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return all weights by their stored names, which lose ``prefix`` if they begin with it.

    On the device ``"meta"`` they have only shapes. On ``"cpu"``, weights in safetensors are mapped.
    """
    found: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        stored = load_state_dict(str(path), map_location=device, weights_only=True)
        found.update((name.removeprefix(prefix), weight) for name, weight in stored.items())
    return found


def wrapper_prefix(names: Sequence[str], missing: Sequence[str], model_prefix: str) -> str:
    """Return what a wrapper such as ``DataParallel`` has put in front of most ``missing`` names.

    ``names`` are the stored ones; ``model_prefix``: the part of the missing names that a bare model
    lacks, such as ``transformer``. Returns "" if there is no such prefix. Raises
    ``CheckpointError`` if several prefixes fit, because the weights are those of several models.
    """
    bare = [name.removeprefix(f"{model_prefix}.") for name in missing]
    for wanted in ({*missing}, {*bare}):
        counts = Counter(
            name[:end] for name in names for end in _part_starts(name) if name[end:] in wanted
        )
        found = sorted(prefix for prefix, count in counts.items() if 2 * count > len(wanted))
        if len(found) > 1:
            raise CheckpointError(
                f"The weights are those of {len(found)} models, whose names begin with "
                f"{' and '.join(map(repr, found))}: save one model alone."
            )
        if found:
            return found[0]
    return ""


def _part_starts(name: str) -> list[int]:
    return [i + 1 for i, letter in enumerate(name) if letter == "."]


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights that Transformers reads; it prefers safetensors.

    Raises ``CheckpointError`` for one that is outside the folder.
    """
    for name in FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [folder / shard for shard in _shards(index)]
    return []


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists.

    Raises ``CheckpointError`` for one outside the folder, which Transformers would read
    (CVE-2026-75104).
    """
    listed = read_json(index).get("weight_map", {})
    names = [*listed.values()] if isinstance(listed, dict) else [listed]
    for name in names:
        plain = isinstance(name, str) and PurePosixPath(name).name == name
        if not plain or PureWindowsPath(name).name != name or name in ("", ".."):
            raise CheckpointError(
                f"{index} lists the unsafe file name {name!r:.100}: get the checkpoint from a "
                "source that you trust."
            )
    return sorted({*names})
