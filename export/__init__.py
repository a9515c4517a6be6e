"""Export a Hugging Face checkpoint to a bundle; needs the extra ``export`` (torch, Optimum)."""

from ..runtime.errors import CheckpointError, MissingPackageError

try:
    from .exporting import export_checkpoint
except ModuleNotFoundError as error:
    if (error.name or "").startswith("edgeseq"):
        raise
    raise MissingPackageError(
        f"Exporting needs {error.name}: install the extra 'export' "
        '(python -m pip install "edgeseq[cpu,export]").'
    ) from error

__all__ = ["CheckpointError", "export_checkpoint"]
