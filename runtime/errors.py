"""The errors that edgeseq raises on purpose.

Each says in one sentence what was wrong, what is allowed and what to do next.

    EdgeseqError
    ├── BundleError          a bundle that is missing, damaged, too new or unsafe
    ├── OptionError          an option or argument that is unknown, invalid or without effect
    ├── PromptError          a prompt that the model cannot take
    ├── DeviceError          a device that was asked for and is not there
    ├── MissingPackageError  an optional package that is not installed
    ├── CheckpointError      a checkpoint that cannot be exported
    └── QuantizationError    a bundle that loses more by quantizing than is allowed
"""

from __future__ import annotations


def reason(error: Exception) -> str:
    """What another library's error says, as a part of one sentence: its first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


class EdgeseqError(Exception):
    """Base of every error that edgeseq raises on purpose."""


class BundleError(EdgeseqError):
    """A bundle is missing, damaged, too new or unsafe."""


class OptionError(EdgeseqError, ValueError):
    """An option or argument is unknown, invalid or without effect."""


class PromptError(EdgeseqError, ValueError):
    """A prompt is empty, too long or holds ids outside the vocabulary."""


class DeviceError(EdgeseqError):
    """A device that was asked for is not available."""


class MissingPackageError(EdgeseqError, ImportError):
    """An optional package is not installed."""


class CheckpointError(EdgeseqError):
    """A checkpoint cannot be read, is not supported or failed its verification."""


class QuantizationError(EdgeseqError):
    """A bundle loses more by quantizing than is allowed."""
