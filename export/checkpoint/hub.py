"""Find a checkpoint: a folder of Hugging Face files, or a Hub id, which is downloaded first."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import requests
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling

from ...runtime.bundle.manifest import Source
from ...runtime.errors import CheckpointError, reason

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SIDE_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja")  # configuration and tokenizer
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHT_FILES = (  # the first kind that exists is used
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A folder of Hugging Face files and where they came from."""

    folder: Path
    source: Source


def find_checkpoint(name: str, revision: str | None) -> Checkpoint:
    """Return the folder ``name``, or download the Hub id ``name`` at ``revision``.

    Downloads go to the Hub's cache. An interrupted download continues where it stopped. With
    ``HF_HUB_OFFLINE`` only the cache is read. Raises ``CheckpointError`` if the checkpoint is not
    found, cannot be downloaded or is damaged.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise CheckpointError(f"{name} is a file: pass its folder, {folder.parent}.")
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"revision is {revision!r}, but {name} is a folder, which has no revisions: "
                "leave revision out."
            )
        return Checkpoint(folder, Source(id=folder.resolve().name, revision=None))
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise CheckpointError(
            f"There is no folder {name}, and this is not a Hub id such as org/model: pass a folder "
            "or a Hub id."
        )
    try:
        folder = _fetch(name, revision)
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"There is no folder {name}, the Hub cannot be reached, and its cache on this machine "
            f"does not contain {name}: check the name and the network connection."
        ) from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated on the Hub: accept its terms there, and log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"There is no folder {name}, and the Hub has no model with this name that you can "
            "access: check the name, or log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"The model {name} on the Hub has no revision {revision!r}: pass one of its branches, "
            "tags or commits."
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(
            f"{name} cannot be downloaded from the Hub ({reason(error)}): check the name, or try "
            "again later."
        ) from error
    except requests.RequestException as error:
        raise CheckpointError(
            f"The download of {name} from the Hub was interrupted ({type(error).__name__}): export "
            "again to resume the download."
        ) from error
    return Checkpoint(folder, Source(id=name, revision=folder.name))


def _fetch(name: str, revision: str | None) -> Path:
    """Download the snapshot of the commit that ``revision`` names now; return its folder.

    The folder has the name of the commit. Its files are checked against the Hub's hashes.
    """
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except (OfflineModeIsEnabled, requests.ConnectionError, requests.Timeout):
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        check_files(folder, hashes_in_cache(folder))
        return folder
    files = [file for file in info.siblings or [] if "/" not in file.rfilename]
    needed = needed_files([file.rfilename for file in files])
    # Download the caller's revision, not the commit, so that the cache also records the revision.
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=needed))
    if folder.name != info.sha:  # the branch has moved in the meantime
        info = HfApi().model_info(name, revision=folder.name, files_metadata=True)
        files = info.siblings or []
    check_files(folder, hashes_of(files))
    return folder


def needed_files(names: list[str]) -> list[str]:
    """Return the files of a checkpoint that an export reads."""
    side_files = matching(names, (*SIDE_FILES, *ADAPTER_FILES))
    kinds = (matching(names, patterns) for patterns in WEIGHT_FILES)
    return side_files + next((weights for weights in kinds if weights), [])


def matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    """Return the names that match one of the patterns."""
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def hashes_of(siblings: Iterable[RepoSibling]) -> dict[str, str]:
    """Return the files' hashes by name, from the metadata of a repository on the Hub.

    Large files have the SHA-256 of their bytes, others the SHA-1 of their Git blob. Files without a
    hash are left out.
    """
    known = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in siblings}
    return {name: value for name, value in known.items() if value is not None}


def hashes_in_cache(folder: Path) -> dict[str, str]:
    """Return the files' hashes by name, from a snapshot in the Hub's cache.

    The snapshot consists of links to files that are named by their hash. The result is empty if the
    system has no links.
    """
    names = {path.name: path.resolve().name for path in folder.iterdir() if path.is_symlink()}
    return {name: value for name, value in names.items() if HASH.fullmatch(value)}


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise ``CheckpointError`` for a file in ``folder`` whose bytes have another hash."""
    for name, expected in hashes.items():
        path = folder / name
        if path.is_file() and _digest(path, len(expected)) != expected:
            raise CheckpointError(
                f"{path.resolve()} is damaged (its hash differs from the Hub's): delete it and "
                "export again."
            )


def _digest(path: Path, length: int) -> str:
    if length == 64:
        digest = hashlib.sha256()
    else:  # Git's hash of a blob
        header = f"blob {path.stat().st_size}\0".encode()
        digest = hashlib.sha1(header, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()
