"""The public names: few, documented, and not changed by accident."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import edgeseq.export
import edgeseq.runtime
from tests.support.errors import VALUE, assert_one_sentence
from tests.support.processes import python

RUNTIME_NAMES = [
    "AsyncTextStream",
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
    "StreamEvent",
    "TaskResult",
    "TextStream",
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


BROKEN = """
raise ImportError("huggingface-hub>=0.34.0,<1.0 is required, but found huggingface-hub==1.2.")
"""
IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from edgeseq.runtime import MissingPackageError
try:
    import edgeseq.export
except MissingPackageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "content", [BROKEN, "", "def __getattr__(name): raise AttributeError(name)"]
)
def test_versions_that_do_not_work_together(content: str, tmp_path: Path) -> None:
    """One sentence names them, in place of a traceback."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text(content, encoding="utf-8")
    message = python(IMPORT, tmp_path).strip()
    assert_one_sentence(message, ending=VALUE)
    assert re.search("transformers 4.*do not work together.*environment of its own", message)


def has_own_docstring(thing: object) -> bool:
    """Tell whether a docstring was written, not inherited or made by `dataclass`."""
    text = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    name = getattr(thing, "__name__", "")
    return bool(text) and not text.startswith(f"{name}(")
