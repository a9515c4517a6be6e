"""``load``: from a bundle on disk to a model that is ready."""

from __future__ import annotations

import os
from pathlib import Path

from edgeseq.runtime.bundle import open_bundle
from edgeseq.runtime.errors import BundleError, OptionError
from edgeseq.runtime.manifest import MANIFEST_NAME, Manifest
from edgeseq.runtime.model import Model
from edgeseq.runtime.options import resolve_options
from edgeseq.runtime.tokenizer import Tokenizer

DEMO_BUNDLES = Path(__file__).parent / "demos"


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    verify: bool = False,
) -> Model:
    """Load a bundle; without ``path``, the demo model that comes with edgeseq.

    ``threads``: how many compute; None: one a physical core. ``verify``: check the hash of every
    file first. Raises ``BundleError`` for a bundle that is missing, damaged or too new,
    ``DeviceError`` for a device that is not there, ``MissingPackageError`` without ONNX Runtime.
    """
    bundle = open_bundle(Path(path) if path is not None else demo_bundle(), verify=verify)
    manifest = bundle.manifest
    _check_defaults(manifest)
    if manifest.kind != "decoder-only":
        raise BundleError(f"This edgeseq cannot run {manifest.kind} bundles: install a newer one.")
    tokenizer = Tokenizer(
        bundle.file(manifest.tokenizer.file), manifest.tokenizer.clean_up_tokenization_spaces
    )
    # Not at the top: importing edgeseq costs nothing that only a loaded model needs.
    from edgeseq.runtime.memory import CpuMemory
    from edgeseq.runtime.onnx_decoder import OnnxDecoder, check_graph
    from edgeseq.runtime.onnx_runtime import open_session

    graph = bundle.file(manifest.graphs["decoder"])
    session = open_session(graph, device, threads)
    check_graph(session, manifest)
    memory = CpuMemory()
    return Model(
        bundle,
        tokenizer,
        lambda rows, capacity: OnnxDecoder(session, manifest, memory, rows, capacity),
    )


def _check_defaults(manifest: Manifest) -> None:
    """Refuse generation defaults that every call would fail on."""
    try:
        resolve_options(manifest.generation, {})
    except OptionError as error:
        raise BundleError(
            f"The bundle's generation defaults cannot be used: {error} Correct them in "
            f"{MANIFEST_NAME}, or export the bundle again."
        ) from error


def demo_bundle(name: str = "gpt2") -> Path:
    """The folder of a demo bundle that comes with edgeseq."""
    return DEMO_BUNDLES / name
