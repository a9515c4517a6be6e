"""The errors that edgeseq raises on purpose.

Each message names the bad value, the allowed values and the next step.

    EdgeseqError
    ├── BundleError          a bundle is missing, damaged, too new or unsafe
    ├── OptionError          an option or argument is unknown, invalid or without effect
    ├── PromptError          a prompt is not valid for the model
    ├── DeviceError          a device is not available or has no memory left
    ├── MissingPackageError  an optional package is not installed
    ├── CheckpointError      a checkpoint cannot be exported
    ├── QuantizationError    quantization loses more quality than is allowed
    └── TrainingError        a model cannot be trained on the given data, or here
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from errno import ENOMEM

LONGEST_REASON = 300  # characters
NO_MEMORY = (
    "Cannot allocate memory",
    "Failed to allocate memory",
    "Unable to allocate",
    "bad allocation",
    "bad_alloc",
    "can't allocate memory",
    "can't start new thread",
    "not enough memory",
)
UNMAPPED = "failed to map segment"  # of a library; it may also lie where no program may


def reason(error: Exception) -> str:
    """Return the first line of another library's error, as a part of a sentence.

    Of a line with more than 300 characters, only the first sentence is returned, or the beginning
    of one that is as long.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0] if len(lines[0]) <= LONGEST_REASON else lines[0].partition(". ")[0]
    return line.rstrip(".") if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, says that there is not enough memory.

    Libraries have errors of many types for that, and some only say it in their text.
    """
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == ENOMEM:
            return True
        if any(words in text for words in NO_MEMORY) or (UNMAPPED in text and _is_limited()):
            return True
        error = error.__cause__
    return False


def _is_limited() -> bool:
    """Return whether the address space of this process has a limit."""
    limited = False
    if sys.platform != "win32":
        try:
            import resource
        except ImportError:  # it cannot be mapped, either
            return True
        limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return limited


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that begins with ``word`` or looks like it; None if none does."""
    import difflib  # late: most runs do not need it

    names = list(known)
    begun = [name for name in names if name.startswith(word)] if len(word) > 2 else []
    found = begun or difflib.get_close_matches(word, names, 1, 0.7)
    return found[0] if found else None


class EdgeseqError(Exception):
    """The base class of all errors that edgeseq raises on purpose.

    Catch it to handle every error that a caller can cause or fix. The message names the bad value,
    the allowed values and the next step.
    """


class BundleError(EdgeseqError):
    """Raised for a bundle that is missing, damaged, too new or unsafe.

    A bundle is unsafe if it names files outside its folder.
    """


class OptionError(EdgeseqError, ValueError):
    """Raised for an option or argument that is unknown, invalid or without effect.

    It is also a ``ValueError``.
    """


class PromptError(EdgeseqError, ValueError):
    """Raised for a prompt that is empty, is too long, or holds ids outside the vocabulary.

    Other texts can raise it too, such as a text to score. It is also a ``ValueError``.
    """


class DeviceError(EdgeseqError):
    """Raised for a device that is not available or has not enough memory."""


class MissingPackageError(EdgeseqError, ImportError):
    """Raised for an optional package that is not installed, or cannot be loaded.

    The message names the extra of edgeseq that installs it. It is also an ``ImportError``.
    """


class CheckpointError(EdgeseqError):
    """Raised for a checkpoint that cannot be read, is not supported or failed its verification."""


class QuantizationError(EdgeseqError):
    """Raised for a bundle that loses more quality by quantization than is allowed."""


class TrainingError(EdgeseqError):
    """Raised for a training run that cannot begin, continue or be saved."""
