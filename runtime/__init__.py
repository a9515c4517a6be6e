"""Text generation with small models on ONNX Runtime, without torch.

    from edgeseq.runtime import load

    model = load("my-bundle")
    print(model.generate("Once upon a time,", max_new_tokens=40)[0].text)

Each name is imported at its first use. A command line that only shows its version, or is
interrupted as it starts, therefore does not wait for numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import (
        BundleError,
        DeviceError,
        EdgeseqError,
        MissingPackageError,
        OptionError,
        PromptError,
    )
    from .loading import load
    from .model import Model
    from .pipelines.pipeline import pipeline
    from .request.options import GenerationOptions
    from .results import (
        AsyncTextStream,
        ChoiceProbability,
        GenerationResult,
        Score,
        StreamEvent,
        TextStream,
        Timings,
    )
    from .session import Session
    from .tasks.runs import TaskResult

    __version__: str

__all__ = [
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

_MODULES = {
    "AsyncTextStream": "results",
    "ChoiceProbability": "results",
    "GenerationOptions": "request.options",
    "GenerationResult": "results",
    "Model": "model",
    "Score": "results",
    "Session": "session",
    "StreamEvent": "results",
    "TaskResult": "tasks.runs",
    "TextStream": "results",
    "Timings": "results",
    "load": "loading",
    "pipeline": "pipelines.pipeline",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = _version()
        globals()[name] = value
        return value
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # late: it searches all packages

    try:
        return version("edgeseq")
    except PackageNotFoundError:  # a frozen app without the package's metadata
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
