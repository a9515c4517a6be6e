"""``load``: from a bundle on disk to a model that is ready."""

from __future__ import annotations

import os
from pathlib import Path

from edgeseq.runtime.bundle import open_bundle
from edgeseq.runtime.errors import BundleError
from edgeseq.runtime.model import Model
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
    if manifest.kind != "decoder-only":
        raise BundleError(f"This edgeseq cannot run {manifest.kind} bundles: install a newer one.")
    tokenizer = Tokenizer(
        bundle.file(manifest.tokenizer.file), manifest.tokenizer.clean_up_tokenization_spaces
    )
    # Not at the top: importing edgeseq costs nothing that only a loaded model needs.
    from edgeseq.runtime.memory import CpuMemory
    from edgeseq.runtime.onnx_decoder import OnnxDecoder
    from edgeseq.runtime.onnx_runtime import open_session

    session = open_session(bundle.file(manifest.graphs["decoder"]), device, threads)
    memory = CpuMemory()
    return Model(
        bundle,
        tokenizer,
        lambda rows, capacity: OnnxDecoder(session, manifest, memory, rows, capacity),
    )


def demo_bundle(name: str = "gpt2") -> Path:
    """The folder of a demo bundle that comes with edgeseq."""
    return DEMO_BUNDLES / name
