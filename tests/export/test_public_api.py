"""The public names: few, documented, and not changed by accident."""

from __future__ import annotations

import inspect

import pytest

import edgeseq.export
import edgeseq.runtime

RUNTIME_NAMES = [
    "BundleError",
    "ChoiceProbability",
    "DeviceError",
    "EdgeseqError",
    "GenerationOptions",
    "GenerationResult",
    "MissingPackageError",
    "Model",
    "OptionError",
    "PromptError",
    "Score",
    "Session",
    "TaskResult",
    "Timings",
    "load",
    "pipeline",
]


def test_runtime_names() -> None:
    assert list(edgeseq.runtime.__all__) == RUNTIME_NAMES


def test_export_names() -> None:
    assert list(edgeseq.export.__all__) == ["CheckpointError", "export_checkpoint"]
    assert has_own_docstring(edgeseq.export.export_checkpoint)


@pytest.mark.parametrize("name", RUNTIME_NAMES)
def test_name_resolves_and_is_documented(name: str) -> None:
    assert has_own_docstring(getattr(edgeseq.runtime, name))


@pytest.mark.parametrize("name", [name for name in RUNTIME_NAMES if name.endswith("Error")])
def test_every_error_can_be_caught_as_one(name: str) -> None:
    assert issubclass(getattr(edgeseq.runtime, name), edgeseq.runtime.EdgeseqError)


def has_own_docstring(thing: object) -> bool:
    """Tell whether a docstring was written, not inherited or made by `dataclass`."""
    text = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    name = getattr(thing, "__name__", "")
    return bool(text) and not text.startswith(f"{name}(")
