"""The errors that edgeseq raises on purpose.

Each message says in one sentence what was wrong, what is allowed and what to do next.

    EdgeseqError
    ├── BundleError          a bundle that is missing, damaged, too new or unsafe
    ├── OptionError          an option or argument that is unknown, invalid or without effect
    ├── PromptError          a prompt that the model cannot take
    ├── DeviceError          a requested device that is not available
    ├── MissingPackageError  an optional package that is not installed
    ├── CheckpointError      a checkpoint that cannot be exported
    └── QuantizationError    a bundle that loses more quality by quantization than is allowed
"""

from __future__ import annotations


def reason(error: Exception) -> str:
    """Return the first line of another library's error, as a part of a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


class EdgeseqError(Exception):
    """Base class of all errors that edgeseq raises on purpose."""


class BundleError(EdgeseqError):
    """Error for a bundle that is missing, damaged, too new or unsafe."""


class OptionError(EdgeseqError, ValueError):
    """Error for an option or argument that is unknown, invalid or without effect."""


class PromptError(EdgeseqError, ValueError):
    """Error for a prompt that is empty, is too long or holds ids outside the vocabulary."""


class DeviceError(EdgeseqError):
    """Error for a requested device that is not available."""


class MissingPackageError(EdgeseqError, ImportError):
    """Error for an optional package that is not installed."""


class CheckpointError(EdgeseqError):
    """Error for a checkpoint that cannot be read, is not supported or failed its verification."""


class QuantizationError(EdgeseqError):
    """Error for a bundle that loses more quality by quantization than is allowed."""
