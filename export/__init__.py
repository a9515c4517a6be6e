"""Export a Hugging Face checkpoint to a bundle; needs the extra ``export`` (torch, Optimum)."""

import sys
from importlib.metadata import PackageNotFoundError, version

from ..runtime.errors import CheckpointError, MissingPackageError, reason

CHAIN = ("transformers", "huggingface-hub", "optimum", "optimum-onnx", "torch")


def installed() -> str:
    """Return the packages of the export with their versions, as a part of a sentence."""
    found = []
    for name in CHAIN:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


try:
    from .exporting import export_checkpoint
except (ImportError, AttributeError) as error:
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if package == "edgeseq":
        raise
    if isinstance(error, ModuleNotFoundError) and package not in sys.modules:
        raise MissingPackageError(
            f"Exporting needs {error.name}: install the extra 'export' "
            '(python -m pip install "edgeseq[cpu,export]").'
        ) from error
    raise MissingPackageError(
        f"The installed versions of {installed()} do not work together ({reason(error)}): install "
        "the extra 'export' in an environment of its own (python -m pip install "
        '"edgeseq[cpu,export]").'
    ) from error

__all__ = ["CheckpointError", "export_checkpoint"]
